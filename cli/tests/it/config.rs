//! `clutch config`: what it checks and prints.

use crate::{Place, clutch};

#[test]
fn the_default_configuration_passes_its_own_check() {
    let place = Place::new();
    let default = place.run(["config", "default"]).expect_code(0).stdout;
    assert!(default.contains("[pools.default]"), "{default}");
    place.tmp.write("clutch.toml", default);
    let output = place.run(["config", "check"]).expect_code(0);
    assert!(output.stdout.starts_with("ok\npool default: "), "{}", output.stdout);
    assert_eq!("", output.stderr);
}

#[test]
fn a_wrong_configuration_is_shown_where_it_is_wrong_f155() {
    let place = Place::new();
    place.tmp.write("bad.toml", "[pools.default]\nworkesr = 2\n");
    for verb in [&["config", "check", "bad.toml"], &["serve", "--config", "bad.toml"]] {
        place
            .run(verb)
            .expect_code(8)
            .expect_stderr("bad.toml:2")
            .expect_stderr("`workers`")
            .expect_stderr("error: the configuration is wrong: 1 problem, shown above\n");
    }
}

#[test]
fn a_missing_configuration_says_how_to_write_one() {
    for verb in [["serve"].as_slice(), ["config", "check"].as_slice()] {
        clutch(verb)
            .expect_code(8)
            .expect_stderr("error: ")
            .expect_stderr("clutch config default > ");
    }
    clutch(["call", "--local", "--config", "none.toml", "m:f"])
        .expect_code(8)
        .expect_stderr("none.toml");
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let schema = clutch(["config", "schema"]).expect_code(0).stdout;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert!(schema["properties"]["pools"].is_object(), "{schema}");
}
