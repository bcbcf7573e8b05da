"""Inside a worker everything looks as if a person had typed `python main.py`: facts, compared."""

import json
import os
import subprocess
import sys
import unittest

import support

# Written to a file by both, since a worker's stdout is line buffered and a person's is a pipe.
FACTS = """
import os, sys

def facts():
    main = sys.modules["__main__"]
    names = main.__dict__
    return {
        "argv": sys.argv,
        "orig_argv": getattr(sys, "orig_argv", None),
        "path": [entry for entry in sys.path if entry != os.environ["PACKAGE_FOLDER"]],
        "path0": sys.path[0],
        "executable": sys.executable,
        "flags": repr(sys.flags),
        "warnoptions": sys.warnoptions,
        "xoptions": {key: str(value) for key, value in sys._xoptions.items()},
        "prefix": [sys.prefix, sys.base_prefix, sys.exec_prefix],
        "names": sorted(name for name in names if name.startswith("__")),
        "name": main.__name__,
        "file": names.get("__file__"),
        "cached": names.get("__cached__"),
        "package": main.__package__,
        "doc": main.__doc__,
        "spec": repr(main.__spec__),
        "loader": type(main.__loader__).__name__,
        "loader_of": getattr(main.__loader__, "name", None),
        "loader_path": getattr(main.__loader__, "path", None),
        "annotations": repr(names.get("__annotations__")),
        "builtins": type(names.get("__builtins__")).__name__,
        "code_file": facts.__code__.co_filename,
        "function_module": facts.__module__,
        "class_module": Thing.__module__,
        "method_module": Thing.method.__module__,
        "inner_module": Thing.Inner.__module__,
        "static_module": Thing.static.__module__,
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "meta_path": [getattr(each, "__name__", type(each).__name__) for each in sys.meta_path],
        "stdin": os.fstat(0).st_rdev,
        "encodings": [sys.stdout.encoding, sys.stderr.encoding, sys.getfilesystemencoding()],
        "errors": [sys.stdout.errors, sys.stderr.errors],
        "dont_write_bytecode": sys.dont_write_bytecode,
        "recursion": sys.getrecursionlimit(),
        "threads": sorted(thread.name for thread in __import__("threading").enumerate()),
        "daemon": __import__("multiprocessing").current_process().daemon,
    }

class Thing:
    class Inner:
        pass
    def method(self):
        pass
    @staticmethod
    def static():
        pass

if __name__ == "__main__":
    import json
    with open(os.environ["FACTS_FILE"], "w") as file:
        json.dump(facts(), file)
"""


class Facts(support.FolderTestCase):
    def both(self, script, arguments=(), flags=(), env=None, code=FACTS):
        """The facts of a person's python and of a worker's."""
        self.write(script, code)
        file = os.path.join(self.folder, "facts.json")
        environment = dict(os.environ, **(env or {}))
        environment.update(FACTS_FILE=file, PACKAGE_FOLDER=support.SOURCE)
        environment.pop("PYTHONPATH", None)
        environment.update(env or {})
        subprocess.run(
            [sys.executable, *flags, script, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=True,
        )
        with open(file) as opened:
            person = json.load(opened)
        worker = self.worker(main=script, argv=arguments, flags=flags, env=environment)
        mine = json.loads(json.dumps(worker.call("__main__:facts")))
        return person, mine

    def check(self, *args, **options):
        person, worker = self.both(*args, **options)
        for name in person:
            self.assertEqual(person[name], worker[name], name)
        return worker

    def test_script_in_the_folder(self):
        worker = self.check("main.py", ["--epochs", "3", "ü ö"])
        self.assertEqual(["main.py", "--epochs", "3", "ü ö"], worker["argv"])
        self.assertEqual(self.folder, worker["path0"])

    def test_script_below_with_spaces(self):
        self.check("./some folder/main.py")

    def test_absolute_script(self):
        self.check(os.path.join(self.folder, "main.py"))

    def test_script_through_a_symlink(self):
        os.mkdir(os.path.join(self.folder, "links"))
        os.symlink("../main.py", os.path.join(self.folder, "links", "linked.py"))
        self.write("main.py", FACTS)
        person, worker = self.both("links/linked.py")
        self.assertEqual(person, worker)
        self.assertEqual(self.folder, worker["path0"])

    def test_docstring_and_annotations(self):
        worker = self.check("main.py", code='"""Said."""\nx: int = 1\n' + FACTS)
        self.assertEqual("Said.", worker["doc"])

    def test_flags(self):
        self.check("main.py", flags=["-O", "-B", "-W", "error::FutureWarning", "-X", "utf8"])

    def test_development_mode(self):
        self.check("main.py", flags=["-X", "dev"])

    def test_isolated(self):
        self.check("main.py", flags=["-I"])

    @unittest.skipIf(sys.version_info < (3, 11), "-P came with 3.11")
    def test_safe_path(self):
        self.check("main.py", flags=["-P"])
        self.check("main.py", env={"PYTHONSAFEPATH": "1"})

    def test_python_path_and_hash_seed(self):
        extra = os.path.join(self.folder, "extra")
        os.mkdir(extra)
        worker = self.check("main.py", env={"PYTHONPATH": extra, "PYTHONHASHSEED": "7"})
        self.assertEqual([self.folder, extra], worker["path"][:2])

    def test_locale_c_f157(self):
        self.check("main.py", ["ü"], env={"LC_ALL": "C", "LANG": "C"})

    def test_paths_of_the_setup_come_second(self):
        self.write("main.py", FACTS)
        env = {"PACKAGE_FOLDER": support.SOURCE}
        worker = self.worker(main="main.py", path=["/one", "/two ü"], env=env)
        path = worker.call("__main__:facts")["path"]
        self.assertEqual([self.folder, "/one", "/two ü"], path[:3])
        self.assertNotIn(support.SOURCE, path)

    def test_without_a_script(self):
        code = "import sys, json\n" + INTERACTIVE
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        person = json.loads(
            subprocess.run(
                [sys.executable, "-i"],
                input=code.encode() + b"\nprint(json.dumps(facts()))\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env=environment,
                check=True,
            ).stdout
        )
        self.write("tasks.py", code)
        worker = self.worker(path=[self.folder]).call("tasks:facts")
        self.assertEqual(["", self.folder], worker["path"][:2])
        self.assertEqual(support.SOURCE, worker["path"].pop())
        worker["path"].remove(self.folder)
        for name in person:
            self.assertEqual(person[name], worker[name], name)


INTERACTIVE = """
def facts():
    main = sys.modules["__main__"]
    left_by_typing = ("sys", "json", "facts", "readline", "rlcompleter", "tasks")
    return {
        "argv": sys.argv,
        "path": sys.path[:],
        "names": sorted(set(vars(main)) - set(left_by_typing)),
        "name": main.__name__,
        "package": main.__package__,
        "spec": repr(main.__spec__),
        "loader": repr(main.__loader__),
        "file": getattr(main, "__file__", None),
    }
"""


if __name__ == "__main__":
    unittest.main()
