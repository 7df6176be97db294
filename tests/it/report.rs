//! `report`: the page as text, and in a browser.

use serde_json::Value;

use crate::browser::Browser;
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
    let tables = data["results"]["tables"].as_array().expect("a list");
    let stages: Vec<&str> = tables.iter().filter_map(|one| one["rows"][0]["heads"][0].as_str()).collect();
    assert_eq!(stages, ["score", "best\u{2020}"], "two protocols are two tables");

    let images = &data["images"][0];
    assert_eq!(images["columns"], serde_json::json!(["photograph", "cams", "masks", "ground truth"]));
    assert_eq!((&images["scored"], &images["has_maps"]), (&"masks".into(), &true.into()));
    assert_eq!(images["colours"][0], serde_json::json!(["background", "rgb(0, 0, 0)"]));
    assert_eq!(images["colours"].as_array().map(Vec::len), Some(6), "four classes, the background, and what is unsure");
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
fn images_are_ranked_by_the_masks_that_most_stages_lead_up_to() {
    let toml = r#"
[pipeline]
name = "look"
[stages.train]
kind = "dataset.synthetic"
count = 8
size = 32
[stages.cams]
kind = "debug.maps"
inputs = { images = "train" }
[stages.both]
kind = "cam.and"
inputs = { a = "cams", b = "cams" }
[stages.deep]
kind = "mask.threshold"
inputs = { scores = "both" }
[stages.shallow]
kind = "mask.threshold"
inputs = { scores = "cams" }
"#;
    let bench = Workbench::new().pipeline(toml);
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    let (_, data) = page(&bench, &[]);
    assert_eq!(data["images"][0]["scored"], "deep");
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

#[test]
fn the_page_can_be_used_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let bench = bench();
    page(&bench, &["--images", "8"]);
    browser.scheme("light");
    browser.open(&format!("file://{}", bench.path("report/look.html").display()));
    browser.wait_for("document.querySelectorAll('#sections a').length >= 6");
    // Every stage can be clicked, and is shown then.
    let stages = browser.value("document.querySelectorAll('#picture .step').length").as_u64().expect("a number");
    assert_eq!(stages, 7);
    for step in 0..stages {
        let node = format!("document.querySelector('#picture .step[data-step=\"{step}\"]')");
        browser.value(&format!("{node}.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))"));
        let shown = browser.value("document.querySelector('#details h3').textContent");
        let label = browser.value(&format!("{node}.getAttribute('aria-label')"));
        let (shown, label) = (shown.as_str().expect("a name"), label.as_str().expect("a label"));
        assert!(label.starts_with(&format!("{shown}, ")), "{label}");
        assert_eq!(browser.value(&format!("{node}.getAttribute('aria-pressed')")), "true");
    }
    // And reached with Tab, and opened with Enter.
    browser.value("document.getElementById('picture').focus()");
    browser.press("Tab");
    browser.press("Enter");
    assert_eq!(browser.value("document.activeElement.dataset.step === String(kept.step)"), true);
    // Every picture is one, also behind the class chooser and in every order.
    browser.value("document.getElementById('images').scrollIntoView()");
    let loaded = "(async () => { for (const one of document.images) { one.loading = 'eager'; await one.decode(); } \
                  return document.images.length > 0 && [...document.images].every((one) => one.naturalWidth > 0 && one.alt); })()";
    assert_eq!(browser.value(loaded), true);
    assert_eq!(browser.value("document.querySelectorAll('#images tbody tr').length"), 8);
    browser.value(
        "[...document.querySelectorAll('#images button')].find((one) => one.textContent === 'Best first').click()",
    );
    let scores =
        "[...document.querySelectorAll('#images tbody th')].map((one) => Number(one.textContent.split('mIoU ')[1]))";
    assert_eq!(browser.value(&format!("{scores}.every((one, at, all) => at === 0 || all[at - 1] >= one)")), true);
    browser.value("(() => { const select = document.querySelector('#images select'); select.selectedIndex = 1; select.dispatchEvent(new Event('change')); })()");
    assert_eq!(browser.value(loaded), true);
    // A column can be left out; the box that was ticked keeps the focus.
    let columns = "document.querySelectorAll('#images thead th').length";
    assert_eq!(browser.value(columns), 5);
    browser.value("(() => { document.querySelector('#images details').open = true; document.querySelectorAll('#images input')[1].click(); })()");
    assert_eq!(browser.value(columns), 4);
    assert_eq!(browser.value("document.activeElement === document.querySelectorAll('#images input')[1] && !document.activeElement.checked"), true);
    browser.keep("report-light");
    // The picture of the graph in other sizes, and the numbers behind a plot.
    let width = "document.querySelector('#picture > svg').getBoundingClientRect().width";
    let natural = browser.value(width).as_f64().expect("a number");
    browser.value("document.querySelector('#zoom button[aria-label=Larger]').click()");
    assert!(browser.value(width).as_f64() > Some(1.2 * natural));
    browser.value("document.querySelector('#zoom button[aria-label=Smaller]').click()");
    browser.value("document.querySelector('#thresholds details').open = true");
    browser.wait_for("document.querySelectorAll('#thresholds details tbody tr').length === 81");
    // Nothing is wider than the window, not even that of a telephone: wide things scroll in their boxes.
    for width in [1280, 700, 360] {
        browser.width(width);
        let sizes = browser.value("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
        assert_eq!(sizes[0], sizes[1], "{width}");
    }
    browser.keep("report-narrow");
    browser.width(1280);
    // What is written can be read in both schemes: WCAG 2.1 asks for a contrast of 4.5.
    let contrast = "(() => { const light = (colour) => { const [r, g, b] = colour.match(/[0-9.]+/g).map((one) => { const value = one / 255; \
                    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; }; \
                    const back = light(getComputedStyle(document.body).backgroundColor); \
                    return Math.min(...['p', 'a', '.soft', 'h2', 'button', 'td'].map((which) => { const text = light(getComputedStyle(document.querySelector(which)).color); \
                    return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05); })); })()";
    let in_light = browser.value(contrast).as_f64().expect("a number");
    browser.scheme("dark");
    let in_dark = browser.value(contrast).as_f64().expect("a number");
    assert!(in_light >= 4.5 && in_dark >= 4.5, "{in_light} {in_dark}");
    browser.value("document.getElementById('graph').scrollIntoView()");
    browser.keep("report-dark");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn the_graph_of_a_sweep_is_that_of_one_point_at_a_time() {
    let sweep = r#"
base = "pipeline.toml"
sweep.targets = ["best", "score"]

[sweep.variants.plain]

[sweep.variants.noisy]
stages.cams.noise = 0.8

[sweep.variants.a_variant_with_a_name_that_is_longer_than_a_telephone_is_wide]
stages.score.inputs.prediction = "masks"
"#;
    let bench = Workbench::new().pipeline(PIPELINE).file("s.toml", sweep);
    assert_eq!(bench.run(["sweep", "s.toml"]).code, Some(0));
    assert_eq!(bench.run(["report", "s.toml", "--images", "4"]).code, Some(0));
    let text = String::from_utf8(bench.read("report/s.html")).expect("it is UTF-8");
    let names: Vec<&str> =
        text.split("<template data-graph=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(names, ["plain", "noisy", "a_variant_with_a_name_that_is_longer_than_a_telephone_is_wide", ""]);
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&format!("file://{}", bench.path("report/s.html").display()));
    let boxes = "[...document.querySelectorAll('#picture .step .name')].map((one) => one.textContent).sort().join()";
    assert_eq!(browser.value(boxes), "best,cams,masks,score,train");
    let choose = |at: usize| {
        format!(
            "(() => {{ const select = document.querySelector('#zoom select'); select.selectedIndex = {at}; \
             select.dispatchEvent(new Event('change')); }})()"
        )
    };
    browser.value(&choose(1));
    assert_eq!(browser.value(boxes), "best,cams,masks,score,train");
    // Its boxes are those of its own steps, and can be clicked.
    browser.value(
        "[...document.querySelectorAll('#picture .step')].find((one) => one.querySelector('.name').textContent === 'cams')\
         .dispatchEvent(new MouseEvent('click', { bubbles: true }))",
    );
    assert_eq!(browser.value("document.querySelector('#details h3').textContent"), "cams@noisy");
    assert_eq!(browser.value("document.querySelector('#chosen').textContent.startsWith('Shown: cams@noisy')"), true);
    assert_eq!(browser.value("document.querySelectorAll('#picture g.near[data-from]').length"), 3);
    browser.value(&choose(3));
    assert_eq!(browser.value("document.querySelectorAll('#picture .step').length"), 9);
    // Long names of points do not push the page wider than a telephone.
    browser.width(360);
    let sizes = browser.value("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert_eq!(sizes[0], sizes[1]);
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

/// Rows and pictures of a page are bounded, so that a set of 10,000 images has a page as large as one of hundreds; the sizes that
/// 10,000 have are in docs/performance.md.
#[test]
fn the_page_does_not_grow_with_the_set() {
    let mut pipeline =
        "[pipeline]\nname = \"look\"\n[stages.train]\nkind = \"dataset.synthetic\"\nsize = 128\ncount = COUNT\n"
            .to_owned();
    for at in 0..18 {
        pipeline.push_str(&format!(
            "[stages.cams{at}]\nkind = \"debug.maps\"\nnoise = 0.{}\ninputs = {{ images = \"train\" }}\n",
            10 + at
        ));
    }
    pipeline.push_str("[stages.masks]\nkind = \"mask.threshold\"\nbackground = 0.4\ninputs = { scores = \"cams0\" }\n");
    let bench = Workbench::new();
    let sized = |count: usize| {
        bench.write("pipeline.toml", pipeline.replace("COUNT", &count.to_string()));
        assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
        let (text, data) = page(&bench, &["--images", "1000"]);
        let images = &data["images"][0];
        assert_eq!(images["total"].as_u64(), Some(count as u64));
        (text.len(), images["rows"].as_array().map(Vec::len).unwrap_or_default())
    };
    let (small, few) = sized(150);
    let (large, many) = sized(300);
    for (size, rows) in [(small, few), (large, many)] {
        assert!(size < 20_000_000, "{size}");
        // 18 stages with up to three maps a picture need more than there is room for.
        assert!(size > 13_000_000 && (20..150).contains(&rows), "{size} {rows}");
    }
}
