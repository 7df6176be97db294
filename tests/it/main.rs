//! Tests that drive the program and its engine.

mod browser;
mod bundle;
mod cache;
mod cam_import;
mod check;
mod checkpoints;
mod coco;
mod collect;
mod command;
mod crash;
mod dataset;
mod diff;
mod disk;
mod docs;
mod doctor;
mod evaluate;
mod export;
mod faults;
mod flagship;
mod foreign;
mod fuse;
mod fuzz;
mod graph;
mod jobs;
mod licences;
mod networks;
mod op;
mod operations;
mod orders;
mod parameters;
mod photographs;
mod predict;
mod properties;
mod remote;
mod report;
mod resize;
mod results;
mod rooms;
mod run;
mod sbd;
mod shared;
mod slots;
mod slurm;
mod small;
mod stages;
mod sweep;
mod trained;
mod watch;
mod weights;
mod why;
mod workbench;

#[test]
fn every_file_here_is_a_module_of_this_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for entry in std::fs::read_dir(folder).expect("the folder of the tests is there") {
        let name = entry.expect("its files can be listed").file_name();
        let name = name.to_str().expect("names of tests are UTF-8");
        let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") else { continue };
        assert!(
            include_str!("main.rs").lines().any(|line| line == format!("mod {module};")),
            "`mod {module};` is missing"
        );
    }
}
