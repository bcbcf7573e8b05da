"""`subprocess` with a shell: it finds the programs that a person at a terminal would find."""

import subprocess


def run(command):
    """What a shell prints for a command; an exception with its exit code when it fails."""
    done = subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def sort_lines(lines):
    """A pipeline that is fed by Python."""
    text = "".join(line + "\n" for line in lines)
    done = subprocess.run(
        "sort | uniq -c", shell=True, check=True, input=text, stdout=subprocess.PIPE, text=True
    )
    return [line.split(None, 1) for line in done.stdout.splitlines()]
