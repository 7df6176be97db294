//! The documents that the program prints itself, and the pipelines that come with it.

use crate::workbench::Workbench;

#[test]
fn the_catalogue_in_docs_is_the_one_that_the_program_prints() {
    if !cfg!(feature = "nn") {
        // This build lacks the kinds that need networks.
        return;
    }
    let printed = Workbench::new().run(["stages", "--markdown"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stages.md")).unwrap_or_default();
    assert!(
        kept == printed.stdout,
        "docs/stages.md is old; make it anew with `cargo run -- stages --markdown > docs/stages.md`"
    );
}

#[test]
fn every_pipeline_that_comes_with_the_program_passes_its_checks() {
    if !cfg!(feature = "nn") {
        // This build lacks the kinds that need networks.
        return;
    }
    let Ok(folder) = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines")) else { return };
    for entry in folder {
        let path = entry.expect("the folder can be listed").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let outcome = Workbench::new().run(["graph", path.to_str().expect("names of pipelines are UTF-8")]);
            assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{}", path.display());
        }
    }
}
