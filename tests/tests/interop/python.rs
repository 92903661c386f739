//! The independent implementation's programs, and an environment with what they need.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use m2m_lab::Node;

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");
/// Seconds that each step of making the environment may take.
const LIMIT_S: &str = "300";

/// A command that runs one of the programs on a node.
pub(crate) fn command(node: &Node, program: &str) -> Command {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    let interpreter = INTERPRETER.get_or_init(prepare);
    let mut command = node.command(interpreter.to_str().unwrap());
    command.arg(format!("{PROGRAMS}/{program}")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Makes the environment unless it is there, and returns its interpreter. Several test programs may ask at once.
fn prepare() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&directory).unwrap();
    let lock = File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();

    let environment = directory.join("venv");
    let interpreter = environment.join("bin/python");
    let wanted = fs::read_to_string(format!("{PROGRAMS}/requirements.txt")).unwrap();
    let installed = environment.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return interpreter;
    }
    run(&["python3", "-m", "venv", "--clear", environment.to_str().unwrap()]);
    let requirements = format!("{PROGRAMS}/requirements.txt");
    let pip = ["-m", "pip", "install", "--quiet", "--no-input", "--only-binary=:all:", "--requirement", &requirements];
    run(&[&[interpreter.to_str().unwrap()], &pip[..]].concat());
    fs::write(&installed, wanted).unwrap();
    interpreter
}

fn run(words: &[&str]) {
    let output = Command::new("timeout").arg(LIMIT_S).args(words).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}\n{}", words.join(" "), output.status, String::from_utf8_lossy(&told));
}
