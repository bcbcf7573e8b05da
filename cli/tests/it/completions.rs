//! `clutch completions`: scripts that shells take.

use clutch_tests::Program;

use crate::{Place, clutch};

#[test]
fn the_script_for_bash_is_sound_and_knows_the_verbs() {
    let place = Place::new();
    let script = clutch(["completions", "bash"]).expect_code(0).stdout;
    let file = place.tmp.write("clutch.bash", &script);
    Program::new("bash").args(["-n"]).args([file]).run().expect_code(0);
    for verb in ["serve", "call", "map", "status", "--on-error"] {
        assert!(script.contains(verb), "{verb}");
    }
}

#[test]
fn operators_verbs_and_their_words_are_completed() {
    for shell in ["bash", "zsh", "fish"] {
        let script = clutch(["completions", shell]).expect_code(0).stdout;
        for verb in ["workers", "pool", "stack", "explain", "cancel", "resize", "recycle", "report"]
        {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn every_shell_has_one() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = clutch(["completions", shell]).expect_code(0).stdout;
        assert!(script.contains("clutch"), "{shell}");
    }
    clutch(["completions", "csh"]).expect_code(2).expect_stderr("csh");
}
