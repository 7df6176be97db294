//! `results`: the table of a sweep in every form.

use crate::workbench::Workbench;

/// Three variants, two seeds; the second one is scored on another split, the third one by an oracle.
const SWEEP: &str = r#"
[stages.drawn]
kind = "debug.seed"

[stages.score]
kind = "debug.metrics"
miou = 0.4
precision = 0.5
recall = 0.6
spread = 0.1
split = "val"
inputs = { a = "drawn" }

[stages.curve]
kind = "debug.metrics"
oracle = true
split = "val"
curve = [[0.1, 0.3, 0.4, 0.8], [0.2, 0.4, 0.6, 0.62], [0.3, 0.3, 0.9, 0.3]]

[sweep]
seeds = [0, 1]

[sweep.variants.first_50]
stages.score.recall = 0.55

[sweep.variants.second]
stages.score.split = "train"
stages.curve.curve = [[0.1, 0.3, 0.3, 0.9], [0.2, 0.4, 0.5, 0.7], [0.3, 0.3, 0.95, 0.4]]

[sweep.variants.third]
stages.score.miou = 0.45
"#;

fn bench() -> Workbench {
    let bench = Workbench::new().file("s.toml", SWEEP);
    assert_eq!(bench.run(["sweep", "s.toml"]).code, Some(0));
    bench
}

fn results<'a>(bench: &Workbench, more: impl IntoIterator<Item = &'a str>) -> String {
    let outcome = bench.run(["results", "s.toml"].into_iter().chain(more));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

#[test]
fn the_table_for_a_terminal() {
    insta::assert_snapshot!(results(&bench(), []), @r"
    score [a] (10 images of split `val`, 2 of 2 classes; not counted: nothing)
    variant   seeds        mIoU %  precision %      recall %
    first_50      2  43.3 ± 3.3     53.3 ± 3.3  58.3 ± 3.3
    third         2  48.3 ± 3.3 *   53.3 ± 3.3  63.3 ± 3.3 *

    score [b] (10 images of split `train`, 2 of 2 classes; not counted: nothing)
    variant  seeds      mIoU %  precision %    recall %
    second       2  43.3 ± 3.3   53.3 ± 3.3  63.3 ± 3.3

    curve† (10 images of split `val`, 2 of 2 classes; not counted: nothing; threshold searched for `miou` on the scored images: an oracle)
    variant   seeds     mIoU %  precision %   recall %     PR area %  precision % at recall 80 %    threshold
    first_50      2  0.0 ± 0.0    0.0 ± 0.0  0.0 ± 0.0  53.4 ± 0.0                  40.0 ± 0.0 *  0.30 ± 0.00
    second        2  0.0 ± 0.0    0.0 ± 0.0  0.0 ± 0.0  59.0 ± 0.0 *                30.0 ± 0.0    0.30 ± 0.00
    third         2  0.0 ± 0.0    0.0 ± 0.0  0.0 ± 0.0  53.4 ± 0.0                  40.0 ± 0.0 *  0.30 ± 0.00

    * best; ± standard deviation over seeds; † oracle: ground truth of the scored images chose the threshold
    ");
}

#[test]
fn every_seed_has_a_row_and_columns_can_be_chosen() {
    let bench = bench();
    insta::assert_snapshot!(results(&bench, ["--each", "--stage", "score", "--measures", "miou"]), @r"
    score [a] (10 images of split `val`, 2 of 2 classes; not counted: nothing)
    variant   seed  mIoU %
    first_50  0     45.6
    first_50  1     41.0
    third     0     50.6 *
    third     1     46.0

    score [b] (10 images of split `train`, 2 of 2 classes; not counted: nothing)
    variant  seed  mIoU %
    second   0     45.6 *
    second   1     41.0

    * best
    ");
    insta::assert_snapshot!(
        results(&bench, ["--stage", "curve", "--measures", "precision-at-recall,area", "--at-recall", "0.35", "--only", "seed=0"]),
        @r"
    curve† (10 images of split `val`, 2 of 2 classes; not counted: nothing; threshold searched for `miou` on the scored images: an oracle)
    variant   PR area %  precision % at recall 35 %
    first_50     53.4                        60.0
    second       59.0 *                      95.0 *
    third        53.4                        60.0

    * best; † oracle: ground truth of the scored images chose the threshold
    "
    );
    let wrong = bench.run(["results", "s.toml", "--stage", "scor"]);
    assert_eq!(
        (wrong.code, wrong.stderr.as_str()),
        (Some(2), "error: no point has a stage `scor`\nhelp: did you mean `score`?\n")
    );
}

#[test]
fn csv_can_be_read_and_has_a_column_for_each_protocol() {
    let text = results(&bench(), ["--format", "csv"]);
    insta::assert_snapshot!(text, @r"
    point,variant,score[a].miou,score[a].miou.sd,score[a].miou.n,score[a].precision,score[a].precision.sd,score[a].precision.n,score[a].recall,score[a].recall.sd,score[a].recall.n,score[b].miou,score[b].miou.sd,score[b].miou.n,score[b].precision,score[b].precision.sd,score[b].precision.n,score[b].recall,score[b].recall.sd,score[b].recall.n,curve(oracle).miou,curve(oracle).miou.sd,curve(oracle).miou.n,curve(oracle).precision,curve(oracle).precision.sd,curve(oracle).precision.n,curve(oracle).recall,curve(oracle).recall.sd,curve(oracle).recall.n,curve(oracle).area,curve(oracle).area.sd,curve(oracle).area.n,curve(oracle).precision_at_recall@0.8,curve(oracle).precision_at_recall@0.8.sd,curve(oracle).precision_at_recall@0.8.n,curve(oracle).threshold,curve(oracle).threshold.sd,curve(oracle).threshold.n
    first_50,first_50,0.43320000000000003,0.03266833329081851,2,0.5332,0.03266833329081851,2,0.5832,0.03266833329081851,2,,,0,,,0,,,0,0,0,2,0,0,2,0,0,2,0.534,0,2,0.4,0,2,0.3,0,2
    second,second,,,0,,,0,,,0,0.43320000000000003,0.03266833329081851,2,0.5332,0.03266833329081851,2,0.6332,0.03266833329081851,2,0,0,2,0,0,2,0,0,2,0.59,0,2,0.3,0,2,0.3,0,2
    third,third,0.48319999999999996,0.03266833329081847,2,0.5332,0.03266833329081851,2,0.6332,0.03266833329081851,2,,,0,,,0,,,0,0,0,2,0,0,2,0,0,2,0.534,0,2,0.4,0,2,0.3,0,2
    ");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let titles = reader.headers().expect("there is a line of titles").clone();
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("all rows have all cells");
    assert_eq!(rows.len(), 3);
    let at = titles.iter().position(|title| title == "score[a].miou").expect("there is such a column");
    assert!(rows[0][at].parse::<f64>().is_ok());
    assert_eq!(&rows[1][at], "", "the second variant was scored on another split");
}

#[test]
fn json_has_all_numbers() {
    let object: serde_json::Value = serde_json::from_str(&results(&bench(), ["--format", "json"])).expect("it is JSON");
    let score = &object["rows"][2]["scores"][0];
    assert_eq!((score["stage"].as_str(), score["measure"].as_str()), (Some("score"), Some("miou")));
    assert_eq!((score["count"].as_u64(), score["best"].as_bool()), (Some(2), Some(true)));
    insta::assert_snapshot!(object["rows"][1]["scores"][3].to_string(), @r#"{"best":false,"count":2,"mean":0.0,"measure":"miou","oracle":true,"protocol":"10 images of split `val`, 2 of 2 classes; not counted: nothing; threshold searched for `miou` on the scored images: an oracle","recall":null,"stage":"curve","standard_deviation":0.0}"#);
}

#[test]
fn markdown_has_even_rows() {
    let text = results(&bench(), ["--format", "markdown", "--stage", "score"]);
    insta::assert_snapshot!(text, @r"
    | variant | seeds | score [a]: mIoU % | score [a]: precision % | score [a]: recall % | score [b]: mIoU % | score [b]: precision % | score [b]: recall % |
    | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
    | first_50 | 2 | 43.3 ± 3.3 | 53.3 ± 3.3 | 58.3 ± 3.3 | - | - | - |
    | second | 2 | - | - | - | 43.3 ± 3.3 | 53.3 ± 3.3 | 63.3 ± 3.3 |
    | third | 2 | **48.3 ± 3.3** | 53.3 ± 3.3 | **63.3 ± 3.3** | - | - | - |

    - score [a]: 10 images of split `val`, 2 of 2 classes; not counted: nothing
    - score [b]: 10 images of split `train`, 2 of 2 classes; not counted: nothing
    - mean ± standard deviation over seeds
    ");
    let bars: Vec<usize> = text.lines().take(5).map(|line| line.matches('|').count()).collect();
    assert!(bars.windows(2).all(|pair| pair[0] == pair[1]), "{bars:?}");
}

#[test]
fn latex_has_even_rows_and_balanced_braces() {
    let text = results(&bench(), ["--format", "latex", "--stage", "curve", "--stage", "score"]);
    insta::assert_snapshot!(text, @r"
    % needs \usepackage{booktabs}
    % score [a]: 10 images of split `val`, 2 of 2 classes; not counted: nothing
    % curve†: 10 images of split `val`, 2 of 2 classes; not counted: nothing; threshold searched for `miou` on the scored images: an oracle
    % score [b]: 10 images of split `train`, 2 of 2 classes; not counted: nothing
    % mean ± standard deviation over seeds
    \begin{tabular}{lrrrrrrrrrrrrr}
    \toprule
     &  & \multicolumn{3}{c}{score {[}a{]}} & \multicolumn{3}{c}{score {[}b{]}} & \multicolumn{6}{c}{curve$^\dagger$} \\
    variant & seeds & mIoU \% & precision \% & recall \% & mIoU \% & precision \% & recall \% & mIoU \% & precision \% & recall \% & PR area \% & precision \% at recall 80 \% & threshold \\
    \midrule
    first\_50 & 2 & 43.3$\pm$3.3 & 53.3$\pm$3.3 & 58.3$\pm$3.3 & -- & -- & -- & 0.0$\pm$0.0 & 0.0$\pm$0.0 & 0.0$\pm$0.0 & 53.4$\pm$0.0 & \textbf{40.0$\pm$0.0} & 0.30$\pm$0.00 \\
    second & 2 & -- & -- & -- & 43.3$\pm$3.3 & 53.3$\pm$3.3 & 63.3$\pm$3.3 & 0.0$\pm$0.0 & 0.0$\pm$0.0 & 0.0$\pm$0.0 & \textbf{59.0$\pm$0.0} & 30.0$\pm$0.0 & 0.30$\pm$0.00 \\
    third & 2 & \textbf{48.3$\pm$3.3} & 53.3$\pm$3.3 & \textbf{63.3$\pm$3.3} & -- & -- & -- & 0.0$\pm$0.0 & 0.0$\pm$0.0 & 0.0$\pm$0.0 & 53.4$\pm$0.0 & \textbf{40.0$\pm$0.0} & 0.30$\pm$0.00 \\
    \bottomrule
    \end{tabular}
    % $\dagger$: ground truth of the scored images chose the threshold
    ");
    let body: Vec<&str> = text.lines().filter(|line| !line.starts_with('%')).collect();
    let (mut depth, mut before) = (0, ' ');
    for letter in body.join("\n").chars() {
        depth += i32::from(letter == '{' && before != '\\') - i32::from(letter == '}' && before != '\\');
        assert!(depth >= 0);
        before = letter;
    }
    assert_eq!(depth, 0);
    // Cells of a row, where a title may stand over several.
    let spec = body[0].split('{').nth(2).and_then(|rest| rest.split('}').next()).expect("columns are declared");
    for line in body.iter().filter(|line| line.ends_with("\\\\")) {
        let cells = line.trim_end_matches("\\\\").split(" & ").map(|cell| {
            let width = cell.trim().strip_prefix("\\multicolumn{").and_then(|rest| rest.split('}').next());
            width.map_or(1, |width| width.parse().expect("a width is a number"))
        });
        assert_eq!(cells.sum::<usize>(), spec.len(), "{line}");
    }
}

#[test]
fn without_scores_it_says_how_to_make_some() {
    let bench = Workbench::new().file("s.toml", SWEEP);
    let outcome = bench.run(["results", "s.toml"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    assert_eq!(outcome.stderr, "error: no score is there yet\nhelp: make them: orandflow sweep s.toml\n");
}

/// One point: two stages of one protocol, one of another, and two curves that reach different recalls.
const SINGLE: &str = r#"
[pipeline]
name = "single"

[stages.one]
kind = "debug.metrics"
miou = 0.4
precision = 0.5
recall = 0.6
split = "train"

[stages.two]
kind = "debug.metrics"
miou = 0.5
precision = 0.4
recall = 0.6
split = "train"

[stages.last]
kind = "debug.metrics"
miou = 0.3
precision = 0.4
recall = 0.5
split = "val"

[stages.far]
kind = "debug.metrics"
oracle = true
split = "train"
curve = [[0.1, 0.3, 0.4, 0.8], [0.2, 0.4, 0.6, 0.62], [0.3, 0.3, 0.9, 0.3]]

[stages.near]
kind = "debug.metrics"
oracle = true
split = "train"
curve = [[0.1, 0.3, 0.5, 0.5], [0.2, 0.4, 0.7, 0.42], [0.3, 0.3, 0.9, 0.3]]

[stages.nap]
kind = "debug.sleep"
seconds = 0.01
"#;

#[test]
fn of_one_pipeline_the_stages_of_a_protocol_are_the_rows_of_a_table() {
    let bench = Workbench::new().pipeline(SINGLE);
    assert_eq!(bench.run(["run", "pipeline.toml"]).code, Some(0));
    let table = |more: &[&str]| {
        let outcome = bench.run(["results", "pipeline.toml"].into_iter().chain(more.iter().copied()));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    // Both curves are read at 50 %, which both reach; by itself the first one would be read at 80 %.
    insta::assert_snapshot!(table(&[]), @r"
    10 images of split `train`, 2 of 2 classes; not counted: nothing
    stage  mIoU %  precision %  recall %
    one    40.0         50.0 *      60.0
    two    50.0 *       40.0        60.0

    10 images of split `val`, 2 of 2 classes; not counted: nothing
    stage  mIoU %  precision %  recall %
    last     30.0         40.0      50.0

    10 images of split `train`, 2 of 2 classes; not counted: nothing; threshold searched for `miou` on the scored images: an oracle
    stage  mIoU %  precision %  recall %  PR area %  precision % at recall 50 %  threshold
    far†      0.0          0.0       0.0     53.4 *                      60.0 *       0.30
    near†     0.0          0.0       0.0     39.4                        50.0         0.30

    * best; † oracle: ground truth of the scored images chose the threshold
    ");
    insta::assert_snapshot!(table(&["--format", "markdown", "--stage", "one", "--stage", "two", "--stage", "last"]), @r"
    10 images of split `train`, 2 of 2 classes; not counted: nothing:

    | stage | mIoU % | precision % | recall % |
    | --- | ---: | ---: | ---: |
    | one | 40.0 | **50.0** | 60.0 |
    | two | **50.0** | 40.0 | 60.0 |

    10 images of split `val`, 2 of 2 classes; not counted: nothing:

    | stage | mIoU % | precision % | recall % |
    | --- | ---: | ---: | ---: |
    | last | 30.0 | 40.0 | 50.0 |
    ");
    insta::assert_snapshot!(table(&["--format", "latex", "--stage", "far", "--measures", "miou,area"]), @r"
    % needs \usepackage{booktabs}
    % 10 images of split `train`, 2 of 2 classes; not counted: nothing; threshold searched for `miou` on the scored images: an oracle
    \begin{tabular}{lrr}
    \toprule
    stage & mIoU \% & PR area \% \\
    \midrule
    far$^\dagger$ & 0.0 & 53.4 \\
    \bottomrule
    \end{tabular}
    % $\dagger$: ground truth of the scored images chose the threshold
    ");
    assert!(table(&["--stage", "far"]).contains("precision % at recall 80 %"));
    let refused = bench.run(["results", "pipeline.toml", "--stage", "nap"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(refused.stderr, "error: stage `nap` makes no scores\nhelp: these do: one, two, last, far, near\n");
    let seeds = table(&["--stage", "one", "--set", "sweep.seeds=[0]", "--each"]);
    assert!(seeds.contains("\none "), "{seeds}");
}

#[test]
fn at_the_end_of_a_run_oracles_are_marked() {
    let bench = Workbench::new().pipeline(SINGLE);
    let text = bench.run(["run", "pipeline.toml"]).stdout;
    let lines: Vec<&str> = text.lines().take(7).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    stage  mIoU %  precision %  recall %  scored on
    one      40.0         50.0      60.0  10 images of `train`
    two      50.0         40.0      60.0  10 images of `train`
    last     30.0         40.0      50.0  10 images of `val`
    far†      0.0          0.0       0.0  10 images of `train`
    near†     0.0          0.0       0.0  10 images of `train`
    † oracle: ground truth of the scored images chose the threshold
    ");
}
