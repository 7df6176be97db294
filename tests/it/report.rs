//! `report`: the page, without a browser.

use serde_json::Value;

use crate::workbench::Workbench;

const PIPELINE: &str = r#"
[pipeline]
name = "look"

[stages.train]
kind = "dataset.synthetic"
count = 60
size = 32

[stages.cams]
kind = "debug.maps"
noise = 0.4
inputs = { images = "train" }

[stages.masks]
kind = "mask.threshold"
background = 0.4
inputs = { scores = "cams" }

[stages.score]
kind = "evaluate"
inputs = { prediction = "masks", truth = "train" }

[stages.best]
kind = "threshold.search"
inputs = { scores = "cams", truth = "train" }

[stages.nap]
kind = "debug.sleep"
seconds = 0.1
steps = 20

[stages.broken]
kind = "debug.fail"
message = "</script> & <b>"
inputs = { a = "nap" }
"#;

fn bench() -> Workbench {
    let bench = Workbench::new().pipeline(PIPELINE);
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(1));
    bench
}

/// Writes the page; returns it and the object within it.
fn page(bench: &Workbench, more: &[&str]) -> (String, Value) {
    let outcome = bench.run(["report", "pipeline.toml"].into_iter().chain(more.iter().copied()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.starts_with("report/look.html ("), "{}", outcome.stdout);
    let text = String::from_utf8(bench.read("report/look.html")).expect("it is UTF-8");
    let data =
        text.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("there is data");
    let data = serde_json::from_str(data).expect("it is JSON");
    (text, data)
}

#[test]
fn the_page_needs_nothing_else_and_has_everything() {
    let bench = bench();
    let (text, data) = page(&bench, &[]);
    // The name space of SVG is a name and not an address.
    let text = text.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "<link", "src=\"", "@import", "url("] {
        assert!(!text.contains(word), "{word}");
    }
    assert_eq!(text.matches("</script>").count(), 2, "text of the pipeline cannot end a script");
    assert!(!text.contains("{{"), "every name in the frame has its part");
    let steps = data["steps"].as_array().expect("stages are a list");
    let statuses: Vec<&str> = steps.iter().filter_map(|step| step["status"].as_str()).collect();
    assert_eq!(statuses, ["cached", "cached", "cached", "cached", "cached", "cached", "failed"]);
    assert_eq!(steps[6]["reason"], "</script> & <b>");
    assert!(steps[0]["made"]["seconds"].as_f64() > Some(0.0));
    assert_eq!(steps[2]["inputs"], serde_json::json!([["scores", 1]]));
    assert!(steps[2]["params"].to_string().contains("pipeline.toml:"), "{}", steps[2]["params"]);
    for index in 0..steps.len() {
        assert!(text.contains(&format!("data-step=\"{index}\"")), "the graph has stage {index}");
    }
    assert_eq!(data["metrics"].as_array().map(Vec::len), Some(2));
    assert_eq!(data["training"][0]["curves"][0]["points"].as_array().map(Vec::len), Some(20));
    let work = data["run"]["work"].as_array().expect("a list");
    assert!(work.iter().any(|work| work["failed"] == true) && work.len() >= 7, "{work:?}");
    let titles: Vec<&str> =
        data["results"]["columns"].as_array().expect("a list").iter().filter_map(|one| one["stage"].as_str()).collect();
    assert!(titles.contains(&"score") && titles.contains(&"best\u{2020}"), "{titles:?}");

    let images = &data["images"][0];
    assert_eq!(images["columns"], serde_json::json!(["photograph", "cams", "masks", "ground truth"]));
    let rows = images["rows"].as_array().expect("a list");
    assert_eq!((rows.len(), images["total"].as_u64()), (40, Some(60)));
    let scores: Vec<f64> = rows.iter().filter_map(|row| row["score"].as_f64()).collect();
    assert_eq!(scores.len(), 40);
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
    for row in rows {
        let pictures = row["cells"].as_array().expect("a list").iter();
        let uris = pictures.flat_map(|cell| cell.as_object().expect("every stage says something").values());
        for uri in uris.filter_map(Value::as_str) {
            assert!(
                uri.starts_with("data:image/jpeg;base64,/9j/") || uri.starts_with("data:image/png;base64,iVBOR"),
                "{uri}"
            );
        }
    }
}

#[test]
fn fewer_images_and_another_run_to_compare_with() {
    let bench = bench();
    let set = ["--set", "stages.masks.background=0.6"];
    assert_eq!(bench.run(["run", "pipeline.toml", "--only", "score"].into_iter().chain(set)).code, Some(0));
    let (_, data) = page(&bench, &["--images", "8", "--against", "pipeline.toml"]);
    assert!(data["difference"]["same"].as_u64() >= Some(5), "{}", data["difference"]);
    let other = ["--against", "pipeline.toml", "--against-set", "stages.masks.background=0.6"];
    let (_, data) = page(&bench, &[&["--images", "8"], other.as_slice()].concat());
    let images = &data["images"][0];
    assert_eq!(images["rows"].as_array().map(Vec::len), Some(8));
    assert_eq!(
        images["columns"],
        serde_json::json!(["photograph", "cams", "masks", "masks of B", "masks: where A and B differ", "ground truth"])
    );
    let values = &data["difference"]["stages"][0]["values"][0];
    assert_eq!(*values, serde_json::json!({ "name": "background", "a": "0.4", "b": "0.6" }));
    let (_, data) = page(&bench, &["--images", "0"]);
    assert_eq!(data["images"][0]["rows"].as_array().map(Vec::len), Some(0));
}

#[test]
fn measured_values_are_event_files_of_tensorboard_as_well() {
    let bench = bench();
    let runs = std::fs::read_dir(bench.path("cache/runs")).expect("there are runs");
    let run = runs.map(|run| run.expect("it can be listed").path()).next().expect("there is one");
    let folder: Vec<_> = std::fs::read_dir(run.join("tensorboard/nap")).expect("the stage has a folder").collect();
    assert_eq!(folder.len(), 1);
    let bytes = std::fs::read(folder[0].as_ref().expect("it can be listed").path()).expect("it can be read");
    // Length, check, bytes, check: as many records as there are values, and one with the version.
    let (mut at, mut records) = (0, 0);
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        at += 16 + usize::try_from(length).expect("it is small");
        records += 1;
    }
    assert_eq!((at, records), (bytes.len(), 21));
}

#[test]
fn events_can_be_read_from_stderr_as_json() {
    let bench = bench();
    let outcome = bench.run(["run", "pipeline.toml", "--only", "score", "--log-format", "json"]);
    let events: Vec<Value> =
        outcome.stderr.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    assert_eq!(events[0]["event"], "run.started");
    assert_eq!(events.last().map(|event| event["event"].clone()), Some("run.finished".into()));
    assert!(outcome.stdout.contains("4 stages: 4 cached"), "{}", outcome.stdout);
}
