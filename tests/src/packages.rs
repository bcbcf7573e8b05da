//! Packages that a test makes itself, so that building environments needs no network.

use std::path::{Path, PathBuf};

use crate::python::Python;
use crate::tmp::Tmp;

/// Writes a wheel: `directory`, name, version, source of its one module.
const WHEEL: &str = "
import sys, zipfile
directory, name, version, source = sys.argv[1:]
info = f'{name}-{version}.dist-info'
files = {
    f'{name}.py': source,
    f'{info}/METADATA': f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n',
    f'{info}/WHEEL': 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
}
files[f'{info}/RECORD'] = ''.join(f'{name},,\\n' for name in [*files, f'{info}/RECORD'])
with zipfile.ZipFile(f'{directory}/{name}-{version}-py3-none-any.whl', 'w') as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
";

/// A build backend without dependencies. It says on `begun` who builds, with a child in a session
/// of its own, and waits for the file `gate`. What it builds is `WHEEL`'s.
const BACKEND: &str = "
import os, pathlib, subprocess, sys, time
ROOT = pathlib.Path(__file__).parent

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    child = subprocess.Popen(['sleep', '1000'], start_new_session=True)
    with open(ROOT / 'begun', 'a') as begun:
        begun.write(f'{os.getpid()} {child.pid}\\n')
    while not (ROOT / 'gate').exists():
        time.sleep(0.02)
    child.kill()
    child.wait()
    source = 'def answer(): return 42\\n'
    args = [str(ROOT / 'wheel.py'), wheel_directory, 'slow', '1.0', source]
    subprocess.run([sys.executable, *args], check=True)
    return 'slow-1.0-py3-none-any.whl'
";

/// Writes a wheel of one module into a directory.
#[track_caller]
pub fn wheel(directory: &Path, name: &str, version: &str, source: &str) {
    let directory = directory.to_str().expect("test paths are text");
    let args = [directory, name, version, source];
    Python::any().script(WHEEL).args(args).run().expect_code(0);
}

/// A package whose build begins and waits: it holds a module `slow` with a function `answer`.
#[derive(Debug)]
pub struct Slow {
    dir: PathBuf,
}

impl Slow {
    /// Makes it.
    pub fn new(tmp: &Tmp) -> Slow {
        tmp.write("slow/backend.py", BACKEND);
        tmp.write("slow/wheel.py", WHEEL);
        tmp.write(
            "slow/pyproject.toml",
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n\
             [project]\nname = 'slow'\nversion = '1.0'\n",
        );
        Slow { dir: tmp.join("slow") }
    }

    /// The requirement that installs it.
    pub fn requirement(&self) -> String {
        format!("slow @ file://{}", self.dir.display())
    }

    /// Builds that have begun: the process ids of each builder, and of its child.
    pub fn begun(&self) -> Vec<[u32; 2]> {
        let text = std::fs::read_to_string(self.dir.join("begun")).unwrap_or_default();
        let number = |word: &str| word.parse().ok();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| {
                let (builder, child) = line.trim().split_once(' ')?;
                Some([number(builder)?, number(child)?])
            })
            .collect()
    }

    /// Lets builds go on, those that have begun and those to come.
    pub fn open(&self) {
        std::fs::write(self.dir.join("gate"), "").expect("a file can be written");
    }
}
