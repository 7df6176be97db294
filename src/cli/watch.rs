//! `orandflow watch`, and `--serve` of the verbs that run: the page of `report`, live and for this machine alone.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::Failure;
use super::common::deliver;
use super::engine::{CacheDir, outside};
use super::export::Cache;
use super::page::{RunLog, graphs, is_of, members, page, run_names, runs};
use super::sweep::SweepFile;
use crate::digest::Digest;
use crate::plan::prepare::Planner;
use crate::plan::svg;
use crate::report::draw;
use crate::report::html::gallery::build;
use crate::report::html::render;
use crate::report::http::{Reply, Request, address, serve};
use crate::report::live::Live;
use crate::run::event::Stamped;
use crate::run::{Outcome, Survey};
use crate::store::Store;
use crate::store::files::Files;
use crate::sweep::Sweep;

/// How often the record of a run is read at most.
const READ: Duration = Duration::from_millis(100);
/// How often a newer run is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Most runs that are looked at to find one of the pipeline, the newest first.
const RUNS: usize = 60;
/// Longest line of a record that is kept, in bytes.
const LINE: usize = 1 << 20;
/// Images are gathered anew at most this often, and in a tenth of the time: the run needs the processor more.
const PICTURES: Duration = Duration::from_secs(5);
/// How long a run that has ended waits at most for open pages to take its last state.
const FAREWELL: Duration = Duration::from_secs(10);
/// A page that has not asked for so long is closed; and what follows the end is asked for within that time.
const PAUSE: Duration = Duration::from_millis(2500);

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    file: SweepFile,

    /// Where the page is served: a port, or an address such as 127.0.0.1:8000; only this machine can be listened to
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = address)]
    listen: SocketAddr,

    /// How many images of each set are shown, at most 150
    #[arg(long, value_name = "N", default_value_t = 24)]
    images: usize,

    #[command(flatten)]
    cache: CacheDir,
}

/// Runs `watch`.
pub(crate) fn watch(args: &WatchArgs) -> Result<ExitCode, Failure> {
    let (sweep, points) = args.file.load()?;
    let store = args.cache.open()?;
    let listener = TcpListener::bind(args.listen).map_err(|error| unheard(args.listen, &error))?;
    let place = listener.local_addr().map_err(|error| outside(&error))?;
    let chosen = sweep.steps_of(&points);
    let watcher = Watcher::new(Shown::new(sweep, points, chosen), store, Some(args.file.clone()), args.images);
    watcher.start(listener)?;
    deliver(
        &format!("http://{place}/ shows the newest run of {}; Ctrl-C ends this\n", args.file.file.display()),
        None,
    )?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let handler = move || {
        // Nobody waits any more where this is the second time.
        let _ = sender.send(());
    };
    if ctrlc::set_handler(handler).is_err() {
        // Without a handler Ctrl-C ends the program at once, which loses nothing.
        loop {
            std::thread::park();
        }
    }
    // The handler lives as long as the program.
    let _ = receiver.recv();
    Ok(ExitCode::SUCCESS)
}

/// Why nobody can be listened to.
pub(crate) fn unheard(place: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::Message {
        message: format!("no page can be served at {place}: {error}"),
        help: Some("choose another port, or 0 for one that is free".to_owned()),
        code: 2,
    }
}

/// What the page is of.
pub(crate) struct Shown {
    sweep: Sweep,
    points: Vec<usize>,
    chosen: Vec<bool>,
    /// Digest of the picture of the graph: a page with another one has to be loaded again.
    id: String,
}

impl Shown {
    /// Makes it of the chosen points and steps.
    pub(crate) fn new(sweep: Sweep, points: Vec<usize>, chosen: Vec<bool>) -> Arc<Self> {
        let id = Digest::of(svg::svg(&sweep.plan).as_bytes()).short();
        Arc::new(Self { sweep, points, chosen, id })
    }
}

/// Follows the record of a run, and makes the page of it.
pub(crate) struct Watcher {
    store: Store,
    /// The file whose newest run is followed; without it the run stays the same.
    file: Option<SweepFile>,
    images: usize,
    following: Mutex<Following>,
    made: Mutex<Made>,
    pictures: Mutex<Pictures>,
}

/// The run that is followed.
struct Following {
    shown: Arc<Shown>,
    tail: Option<Tail>,
    live: Live,
    /// Grows with everything that is heard.
    version: u64,
    /// The version at which a result came to be last.
    revision: u64,
    looked: Option<Instant>,
    read: Option<Instant>,
    trouble: Option<String>,
    /// When a page asked last.
    asked: Option<Instant>,
    /// When a page was first told of the end.
    told: Option<Instant>,
}

/// The record of a run, as far as it was read.
struct Tail {
    name: String,
    reader: BufReader<File>,
    /// The beginning of a line that has no end yet.
    line: Vec<u8>,
    /// When it grew last.
    grew: SystemTime,
}

/// The page without images, as it was made last.
#[derive(Default)]
struct Made {
    of: Option<(String, u64)>,
    runs: Vec<RunLog>,
    json: Arc<[u8]>,
    html: String,
}

/// The images, as they were gathered last.
#[derive(Default)]
struct Pictures {
    of: Option<(String, u64)>,
    /// The results that they show.
    results: Vec<Digest>,
    json: String,
    took: Duration,
    ended: Option<Instant>,
}

impl Watcher {
    /// Makes one that follows the newest run of a file.
    fn new(shown: Arc<Shown>, store: Store, file: Option<SweepFile>, images: usize) -> Arc<Self> {
        let following = Following {
            shown,
            tail: None,
            live: Live::default(),
            version: 0,
            revision: 0,
            looked: None,
            read: None,
            trouble: None,
            asked: None,
            told: None,
        };
        let (made, pictures) = Default::default();
        Arc::new(Self { store, file, images, following: Mutex::new(following), made, pictures })
    }

    /// Makes one that follows the run with this folder.
    pub(crate) fn of_run(shown: Arc<Shown>, store: Store, folder: &std::path::Path) -> Arc<Self> {
        let watcher = Self::new(shown, store, None, 24);
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        lock(&watcher.following).tail = Tail::open(name, folder.join("events.jsonl"));
        watcher
    }

    /// Answers in a thread until the program ends.
    pub(crate) fn start(self: &Arc<Self>, listener: TcpListener) -> Result<(), Failure> {
        let own = Arc::clone(self);
        let answer: Arc<dyn Fn(&Request) -> Reply + Send + Sync> = Arc::new(move |request| own.answer(request));
        let body = move || serve(&listener, &answer);
        std::thread::Builder::new().name("listener".to_owned()).spawn(body).map_err(|error| outside(&error))?;
        Ok(())
    }

    /// Waits until open pages have taken the last state of a run that has ended; not long, and not at all without pages.
    pub(crate) fn bid_farewell(&self) {
        let since = Instant::now();
        while since.elapsed() < FAREWELL {
            let following = lock(&self.following);
            let open = following.asked.is_some_and(|asked| asked.elapsed() < PAUSE);
            let told = following.told.is_some_and(|told| told.elapsed() > PAUSE);
            drop(following);
            let idle = self.made.try_lock().is_ok() && self.pictures.try_lock().is_ok();
            if !open || (told && idle) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        match request.path.as_str() {
            "/" => match self.page() {
                Ok(made) => Reply::html(made.html.clone()),
                Err(message) => Reply::broken(&message),
            },
            "/live.json" => self.live(request.number("since")),
            "/page.json" => match self.page() {
                Ok(made) => Reply::json(Arc::clone(&made.json)),
                Err(message) => Reply::broken(&message),
            },
            "/images.json" => match self.pictures(request.number("since")) {
                Ok(Some(text)) => Reply::json(text.into_bytes()),
                Ok(None) => Reply::nothing(),
                Err(message) => Reply::broken(&message),
            },
            "/favicon.ico" => Reply::nothing(),
            _ => Reply::not_found(),
        }
    }

    /// Answers with what is known of the run; with nothing where the reader knows it already.
    fn live(&self, since: Option<u64>) -> Reply {
        let mut following = self.follow();
        following.asked = Some(Instant::now());
        if following.live.has_ended() && following.told.is_none() {
            following.told = Some(Instant::now());
        }
        if since == Some(following.version) {
            return Reply::nothing();
        }
        let view = following.tail.as_ref().map(|_| following.live.view());
        let quiet = following.tail.as_ref().and_then(|tail| tail.grew.elapsed().ok()).unwrap_or_default();
        let state = json!({
            "version": following.version,
            "revision": following.revision,
            "plan": following.shown.id,
            "run": following.tail.as_ref().map(|tail| tail.name.as_str()),
            "quiet": quiet.as_secs_f64(),
            "trouble": following.trouble,
            "state": view,
        });
        Reply::json(state.to_string().into_bytes())
    }

    /// Reads what was added to the record, and finds a newer run.
    fn follow(&self) -> MutexGuard<'_, Following> {
        let mut following = lock(&self.following);
        if let Some(file) = &self.file
            && following.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        {
            following.looked = Some(Instant::now());
            following.look_for_newer(file, &self.store);
        }
        if following.read.is_none_or(|read| read.elapsed() >= READ) {
            following.read = Some(Instant::now());
            following.catch_up();
        }
        following
    }

    /// Returns the page as it is now, without images.
    fn page(&self) -> Result<MutexGuard<'_, Made>, String> {
        let (shown, revision) = self.subject();
        let of = (shown.id.clone(), revision);
        let mut made = lock(&self.made);
        if made.of.as_ref() != Some(&of) {
            let known = std::mem::take(&mut made.runs);
            let view = self.surveyed(&shown, |outcome, _| {
                let runs = runs(&self.store, known);
                let mut page = page(&shown.sweep, &shown.points, outcome, &self.store, &runs);
                page.live = Some(shown.id.clone());
                Ok((page, runs))
            });
            let (page, runs) = view?;
            made.runs = runs;
            made.json = json!({ "revision": revision, "plan": shown.id, "page": page }).to_string().into_bytes().into();
            made.html = render(&page, &shown.sweep.plan, &graphs(&shown.sweep, &shown.points));
            made.of = Some(of);
        }
        Ok(made)
    }

    /// Returns the images, which may be those of an earlier revision; nothing where the reader has these.
    fn pictures(&self, since: Option<u64>) -> Result<Option<String>, String> {
        let (shown, revision) = self.subject();
        let of = (shown.id.clone(), revision);
        let ended = lock(&self.following).live.has_ended();
        let mut pictures = lock(&self.pictures);
        let pause = PICTURES.max(pictures.took * 10);
        let rests = pictures.of.is_some() && !ended && pictures.ended.is_some_and(|end| end.elapsed() < pause);
        if pictures.of.as_ref() != Some(&of) && !rests {
            let begun = Instant::now();
            self.surveyed(&shown, |outcome, source| {
                let members = members(&shown.sweep, shown.points.first().copied().unwrap_or(0), outcome, None);
                let outputs = outcome.steps.iter().filter_map(|step| step.output.as_ref());
                let per_image = outputs.filter(|output| output.manifest.buckets.is_some());
                let results: Vec<Digest> = per_image.map(|output| output.digest).collect();
                if pictures.of.is_none() || results != pictures.results {
                    let images = build(&members, source, self.images)?;
                    pictures.json = serde_json::to_string(&images).expect("images are JSON");
                    pictures.results = results;
                }
                Ok(())
            })?;
            pictures.of = Some(of);
            (pictures.took, pictures.ended) = (begun.elapsed(), Some(Instant::now()));
        }
        let known = pictures.of.as_ref().map(|(_, revision)| *revision);
        if since.is_some() && since == known {
            return Ok(None);
        }
        Ok(Some(format!("{{\"revision\":{},\"images\":{}}}", known.unwrap_or(0), pictures.json)))
    }

    fn subject(&self) -> (Arc<Shown>, u64) {
        let following = self.follow();
        (Arc::clone(&following.shown), following.revision)
    }

    /// Looks at every stage, and hands the outcome and the cache on.
    fn surveyed<T>(
        &self,
        shown: &Shown,
        then: impl FnOnce(&Outcome, &Cache<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let files = Files::load(&self.store);
        let planner = Planner::new(&self.store, &files);
        let survey = Survey::of(&shown.sweep.plan, &shown.chosen, &planner);
        let survey = survey.map_err(|faults| draw::diagnostics(&faults, false))?;
        then(&survey.outcome(&shown.sweep.plan, &self.store), &Cache { store: &self.store, planner: &planner })
    }
}

impl Following {
    /// Turns to the newest run of the pipeline, if it is another one.
    fn look_for_newer(&mut self, file: &SweepFile, store: &Store) {
        let folder = store.root().join("runs");
        let own = self.tail.as_ref().map(|tail| tail.name.clone());
        let newer = run_names(&folder).into_iter().take(RUNS).take_while(|name| Some(name) != own.as_ref());
        let found = newer.into_iter().find(|name| {
            let first = File::open(folder.join(name).join("events.jsonl")).ok().and_then(|file| {
                let mut line = String::new();
                BufReader::new(std::io::Read::take(file, LINE as u64)).read_line(&mut line).ok()?;
                serde_json::from_str::<Stamped>(&line).ok()
            });
            first.is_some_and(|first| is_of(&self.shown.sweep, &[first]))
        });
        let Some(name) = found else { return };
        let folder = folder.join(&name);
        let Some(tail) = Tail::open(name, folder.join("events.jsonl")) else { return };
        (self.tail, self.live, self.told) = (Some(tail), Live::default(), None);
        self.version += 1;
        self.revision = self.version;
        // The run may have been given other values than the file has.
        let set = std::fs::read_to_string(folder.join("set.txt")).unwrap_or_default();
        let mut with = file.clone();
        if with.set.is_empty() {
            with.set = set.lines().map(str::to_owned).collect();
        }
        match with.load() {
            Ok((sweep, points)) => {
                let chosen = sweep.steps_of(&points);
                self.shown = Shown::new(sweep, points, chosen);
                self.trouble = None;
            }
            Err(failure) => self.trouble = Some(failure.draw(false)),
        }
    }

    /// Reads what was added to the record since.
    fn catch_up(&mut self) {
        let Some(tail) = &mut self.tail else { return };
        loop {
            let before = tail.line.len();
            // What cannot be read now may be read the next time.
            let Ok(more) = tail.reader.read_until(b'\n', &mut tail.line) else { break };
            if more == 0 {
                break;
            }
            tail.grew = SystemTime::now();
            if tail.line.last() != Some(&b'\n') {
                if before + more > LINE {
                    tail.line.clear();
                }
                break;
            }
            if let Ok(stamped) = serde_json::from_slice::<Stamped>(&tail.line) {
                self.version += 1;
                if self.live.hear(&stamped) {
                    self.revision = self.version;
                }
            }
            tail.line.clear();
        }
    }
}

impl Tail {
    fn open(name: String, path: PathBuf) -> Option<Self> {
        let file = File::open(path).ok()?;
        let grew = file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(Self { name, reader: BufReader::new(file), line: Vec::new(), grew })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
