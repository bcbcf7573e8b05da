"""Real work on real input: parse source files and count the names in them."""

import ast
import tokenize


def count_names(path):
    """Parse a file twice, into a tree and into tokens, and count what both call a name."""
    with tokenize.open(path) as file:
        source = file.read()
    tree = ast.parse(source, path)
    with open(path, "rb") as file:
        tokens = sum(1 for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME)
    names = sum(1 for node in ast.walk(tree) if isinstance(node, ast.Name))
    return [path, names, tokens]
