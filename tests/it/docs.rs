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

#[test]
fn every_ablation_passes_its_checks_on_every_base() {
    if !cfg!(feature = "nn") {
        // This build lacks the kinds that need networks.
        return;
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(folder) = std::fs::read_dir(root.join("pipelines/ablations")) else { return };
    let bases = ["voc_resnet_vit.toml", "demo.toml", "patches.toml"].map(|base| root.join("pipelines").join(base));
    for entry in folder {
        let path = entry.expect("the folder can be listed").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        if path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_amn")) {
            let loaded = orandflow::sweep::load(&path, &[], orandflow::stages::catalog());
            assert_eq!(
                loaded.map(|sweep| sweep.points.len()).map_err(|faults| faults.len()),
                Ok(15),
                "{}",
                path.display()
            );
            continue;
        }
        for (at, base) in bases.iter().enumerate() {
            let mut sets = vec![format!("base={}", base.display())];
            if at > 0 && text.contains("\ntruth = ") {
                sets.push("vars.truth=train".to_owned());
            }
            let catalog = orandflow::stages::catalog();
            let sweep = orandflow::sweep::load(&path, &sets, catalog);
            let sweep = sweep.unwrap_or_else(|faults| {
                panic!(
                    "{} on {}: {}",
                    path.display(),
                    base.display(),
                    orandflow::report::draw::diagnostics(&faults, false)
                )
            });
            assert!(sweep.points.len() >= 12, "{}", path.display());
            let all: usize = sweep.points.iter().map(|point| point.steps.len()).sum();
            assert!(sweep.plan.steps.len() < all, "{}", path.display());
            // The classifiers do not depend on what varies, so that each is there once a seed.
            let trainings = sweep.plan.steps.iter().filter(|step| step.kind.spec().name == "classifier.train");
            assert_eq!(trainings.count(), 6, "{}", path.display());
        }
    }
}

#[test]
fn every_ablation_of_maps_is_scored_at_a_fixed_at_every_and_at_a_chosen_threshold() {
    let Ok(folder) = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/ablations")) else { return };
    let mut looked_at = 0;
    for entry in folder {
        let path = entry.expect("the folder can be listed").path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // Of the maps of AMN and MCTformer there are files for the training images alone.
        if path.extension().is_none_or(|extension| extension != "toml") || stem.ends_with("_amn") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        let file: toml::Table = text.parse().expect("it is TOML");
        if !text.contains("threshold.search") {
            continue;
        }
        let targets: Vec<&str> = file["sweep"]["targets"]
            .as_array()
            .expect("the targets are a list")
            .iter()
            .filter_map(toml::Value::as_str)
            .collect();
        let has = |name: &str| targets.contains(&name);
        assert!((has("fixed") || has("score_pseudo")) && has("curve") && has("chosen"), "{stem}: {targets:?}");
        looked_at += 1;
    }
    assert!(looked_at == 0 || looked_at >= 4, "{looked_at}");
}
