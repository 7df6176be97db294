//! Images beside what stages made of them: which ones are shown, and their pictures. Where bytes come from is the caller's
//! business.

use std::collections::{BTreeMap, BTreeSet};

use super::thumbnail;
use super::{ImageRow, ImagesView};
use crate::artifact::export::Source;
use crate::artifact::images::{self, ClassList, ImageEntry};
use crate::artifact::{maps, masks};
use crate::digest::Digest;
use crate::image::palette::voc_palette;
use crate::image::{LabelMap, Rgb, codec};
use crate::kind::Kind;
use crate::store::manifest::{Entry, Manifest};

/// Most images that are shown.
pub const MOST: usize = 150;
/// Most bytes of pictures on a page, which is to stay below 20 MB with everything else that it has. Where many stages or classes
/// would need more, fewer images are shown.
pub const ROOM: usize = 15_000_000;
/// Most images that are scored to find the best and the worst; of more, those with the smallest digests of their ids.
const SCORED: usize = 2000;

/// A stage whose result is per image.
pub struct Member<'a> {
    /// Its name.
    pub stage: String,
    /// How many stages come before it, one behind the other.
    pub depth: usize,
    /// Its result.
    pub manifest: &'a Manifest,
    /// The result of the stage of the same name on the other side of a comparison, where it is another one.
    pub other: Option<&'a Manifest>,
}

/// Images that belong together, and the stages that say something of them.
struct Group<'a> {
    name: String,
    ids: BTreeSet<&'a str>,
    sets: Vec<&'a Manifest>,
    members: Vec<&'a Member<'a>>,
}

/// Returns a view for each set of images, with at most `wanted` images each.
///
/// # Errors
/// If a part cannot be read.
pub fn build(members: &[Member<'_>], source: &dyn Source, wanted: usize) -> Result<Vec<ImagesView>, String> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for member in members.iter().filter(|member| member.manifest.kind == Kind::ImageSet) {
        let ids: BTreeSet<&str> = member.manifest.ids().into_iter().collect();
        match groups.iter_mut().find(|group| !group.ids.is_disjoint(&ids)) {
            Some(group) => group.sets.push(member.manifest),
            None => {
                let name = member.stage.clone();
                groups.push(Group { name, ids, sets: vec![member.manifest], members: Vec::new() });
            }
        }
    }
    let shown = [Kind::CamSet, Kind::ScoreSet, Kind::SeedSet, Kind::MaskSet];
    for member in members.iter().filter(|member| shown.contains(&member.manifest.kind)) {
        let ids = member.manifest.ids();
        if let Some(group) = groups.iter_mut().find(|group| ids.iter().any(|id| group.ids.contains(id))) {
            group.members.push(member);
        }
    }
    let mut room = ROOM;
    let mut views = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        let (view, taken) = group.view(source, wanted.min(MOST), room / (groups.len() - at))?;
        room -= taken;
        views.push(view);
    }
    Ok(views)
}

impl Group<'_> {
    /// Returns the view, with as many of the wanted images as there is room for, and how many bytes its pictures take.
    fn view(&self, source: &dyn Source, wanted: usize, room: usize) -> Result<(ImagesView, usize), String> {
        let mut entries: BTreeMap<String, ImageEntry> = BTreeMap::new();
        let mut classes: Vec<String> = Vec::new();
        for set in &self.sets {
            if let Ok(list) = serde_json::from_value::<ClassList>(set.meta.clone()) {
                classes = list.classes;
            }
            for (_, shard) in set.shards() {
                for image in images::decode(&source.entry(shard)?)? {
                    // Of two sets with the same image the one that has the truth says more.
                    if image.mask.is_some() || !entries.contains_key(&image.id) {
                        entries.insert(image.id.clone(), image);
                    }
                }
            }
        }
        // What the pipeline leads up to says most; of several as far down, the last one does.
        let scored = self.members.iter().filter(|member| member.manifest.kind == Kind::MaskSet);
        let scored = scored.max_by_key(|member| member.depth);
        let scores = match scored {
            Some(member) => scores(member.manifest, &entries, source)?,
            None => BTreeMap::new(),
        };
        let order = choose(&entries, &scores, wanted);
        let mut chosen = order.clone();
        chosen.sort();
        let has_truth = chosen.iter().any(|id| entries[id].mask.is_some());

        let mut rows: Vec<ImageRow> = Vec::new();
        let mut smalls: BTreeMap<String, Rgb> = BTreeMap::new();
        for id in &chosen {
            let entry = &entries[id];
            let small = thumbnail::shrink(&codec::decode_rgb(&source.content(entry.image)?)?);
            rows.push(ImageRow {
                id: id.clone(),
                classes: entry.labels.iter().map(|label| name_of(&classes, *label)).collect(),
                score: scores.get(id).copied(),
                width: small.width(),
                height: small.height(),
                cells: vec![Some(single(thumbnail::photograph(&small)))],
            });
            smalls.insert(id.clone(), small);
        }
        let mut columns = vec!["photograph".to_owned()];
        let is_mask = |member: &&&Member<'_>| matches!(member.manifest.kind, Kind::MaskSet | Kind::SeedSet);
        let has_maps = self.members.iter().any(|member| !is_mask(&member));
        for member in &self.members {
            let own = pictures(member.manifest, &chosen, &smalls, &classes, source)?;
            push(&mut rows, &mut columns, member.stage.clone(), own);
            let Some(other) = member.other else { continue };
            let theirs = pictures(other, &chosen, &smalls, &classes, source)?;
            push(&mut rows, &mut columns, format!("{} of B", member.stage), theirs);
            if is_mask(&member) {
                let (mine, theirs) = (read(member.manifest, &chosen, source)?, read(other, &chosen, source)?);
                let differences = mine
                    .iter()
                    .filter_map(|(id, mine)| Some((id.clone(), single(thumbnail::difference(mine, theirs.get(id)?)?))));
                push(&mut rows, &mut columns, format!("{}: where A and B differ", member.stage), differences.collect());
            }
        }
        if has_truth {
            let mut truths = BTreeMap::new();
            for id in &chosen {
                if let Some(mask) = entries[id].mask {
                    let mask = codec::decode_mask(&source.content(mask)?)?;
                    truths.insert(id.clone(), single(thumbnail::mask(&mask)));
                }
            }
            push(&mut rows, &mut columns, "ground truth".to_owned(), truths);
        }
        let scored = scored.filter(|_| !scores.is_empty()).map(|member| member.stage.clone());
        let colours = if has_truth || self.members.iter().any(|member| is_mask(&member)) {
            colours(entries.values().flat_map(|entry| &entry.labels), &classes)
        } else {
            Vec::new()
        };
        let taken = fit(&mut rows, &order, room);
        let name = self.name.clone();
        Ok((ImagesView { name, total: entries.len(), scored, colours, has_maps, columns, rows }, taken))
    }
}

/// Keeps the first rows, in the order of their choice, whose pictures there is room for; returns how many bytes these take.
fn fit(rows: &mut Vec<ImageRow>, order: &[String], room: usize) -> usize {
    let weight = |row: &ImageRow| -> usize {
        let pictures = row.cells.iter().flatten().flat_map(BTreeMap::iter);
        pictures.map(|(name, uri)| name.len() + uri.len()).sum()
    };
    let weights: BTreeMap<String, usize> = rows.iter().map(|row| (row.id.clone(), weight(row))).collect();
    let mut taken = 0;
    let mut kept = BTreeSet::new();
    for id in order {
        let more = weights.get(id).copied().unwrap_or(0);
        if taken + more > room {
            break;
        }
        taken += more;
        kept.insert(id.as_str());
    }
    rows.retain(|row| kept.contains(row.id.as_str()));
    taken
}

/// Returns the name and the colour in masks of the background, of every class that images have, and of pixels without a class.
fn colours<'a>(labels: impl Iterator<Item = &'a u8>, classes: &[String]) -> Vec<(String, String)> {
    const PALETTE: [u8; 768] = voc_palette();
    let colour = |index: u8| {
        let at = usize::from(index) * 3;
        format!("rgb({}, {}, {})", PALETTE[at], PALETTE[at + 1], PALETTE[at + 2])
    };
    let labels: BTreeSet<u8> = labels.copied().filter(|label| *label < LabelMap::IGNORE - 1).collect();
    let classes = labels.into_iter().map(|label| (name_of(classes, label), colour(label + 1)));
    let background = ("background".to_owned(), colour(0));
    let ignored = ("unsure or not counted".to_owned(), colour(LabelMap::IGNORE));
    std::iter::once(background).chain(classes).chain([ignored]).collect()
}

type Cells = BTreeMap<String, BTreeMap<String, String>>;

fn single(uri: String) -> BTreeMap<String, String> {
    BTreeMap::from([(String::new(), uri)])
}

fn name_of(classes: &[String], label: u8) -> String {
    classes.get(usize::from(label) + 1).cloned().unwrap_or_else(|| format!("class {}", label + 1))
}

fn push(rows: &mut [ImageRow], columns: &mut Vec<String>, title: String, mut cells: Cells) {
    for row in rows {
        row.cells.push(cells.remove(&row.id));
    }
    columns.push(title);
}

/// Returns the shards that hold chosen images, each with those.
fn shards_with<'a>(manifest: &'a Manifest, chosen: &'a [String]) -> Vec<(&'a Entry, Vec<&'a String>)> {
    let shards = manifest.shards().map(|(_, entry)| {
        let own = chosen.iter().filter(|id| entry.ids.binary_search(id).is_ok());
        (entry, own.collect::<Vec<_>>())
    });
    shards.filter(|(_, own)| !own.is_empty()).collect()
}

/// Returns the pictures of a stage's result for the chosen images.
fn pictures(
    manifest: &Manifest,
    chosen: &[String],
    smalls: &BTreeMap<String, Rgb>,
    classes: &[String],
    source: &dyn Source,
) -> Result<Cells, String> {
    let mut cells = Cells::new();
    if matches!(manifest.kind, Kind::MaskSet | Kind::SeedSet) {
        for (id, mask) in read(manifest, chosen, source)? {
            cells.insert(id, single(thumbnail::mask(&mask)));
        }
        return Ok(cells);
    }
    for (shard, ids) in shards_with(manifest, chosen) {
        let bytes = source.entry(shard)?;
        for id in ids {
            let found = maps::decode_one(&bytes, id)?;
            let small = &smalls[id];
            let mut own = BTreeMap::new();
            for (channel, label) in found.classes.iter().enumerate() {
                own.insert(name_of(classes, *label), thumbnail::heat(small, &found.high_res, channel));
            }
            if found.classes.len() > 1 {
                own.insert(String::new(), thumbnail::heat_of_all(small, &found.high_res));
            }
            if !own.is_empty() {
                cells.insert(id.clone(), own);
            }
        }
    }
    Ok(cells)
}

/// Returns the chosen masks.
fn read(manifest: &Manifest, chosen: &[String], source: &dyn Source) -> Result<BTreeMap<String, LabelMap>, String> {
    let mut found = BTreeMap::new();
    for (shard, ids) in shards_with(manifest, chosen) {
        let bytes = source.entry(shard)?;
        for id in ids {
            found.insert(id.clone(), masks::decode_one(&bytes, id)?);
        }
    }
    Ok(found)
}

/// Returns the mean IoU of each image that has a mask and ground truth, over the classes that either has.
fn scores(
    manifest: &Manifest,
    entries: &BTreeMap<String, ImageEntry>,
    source: &dyn Source,
) -> Result<BTreeMap<String, f64>, String> {
    let mut ids: Vec<String> = manifest
        .ids()
        .into_iter()
        .filter(|id| entries.get(*id).is_some_and(|entry| entry.mask.is_some()))
        .map(str::to_owned)
        .collect();
    if ids.len() > SCORED {
        ids.sort_by_key(|id| Digest::of(id.as_bytes()));
        ids.truncate(SCORED);
        ids.sort();
    }
    let mut scores = BTreeMap::new();
    // Shard by shard: of thousands of images the masks are never there all at once.
    for (shard, ids) in shards_with(manifest, &ids) {
        let bytes = source.entry(shard)?;
        for id in ids {
            let Some(digest) = entries[id].mask else { continue };
            let truth = codec::decode_mask(&source.content(digest)?)?;
            if let Some(score) = mean_iou(&masks::decode_one(&bytes, id)?, &truth) {
                scores.insert(id.clone(), score);
            }
        }
    }
    Ok(scores)
}

fn mean_iou(mask: &LabelMap, truth: &LabelMap) -> Option<f64> {
    if (mask.height(), mask.width()) != (truth.height(), truth.width()) {
        return None;
    }
    let (mut both, mut either) = ([0_u64; 256], [0_u64; 256]);
    for (&mine, &true_index) in mask.data().iter().zip(truth.data()) {
        if true_index == LabelMap::IGNORE || mine == LabelMap::IGNORE {
            continue;
        }
        either[usize::from(mine)] += 1;
        if mine == true_index {
            both[usize::from(mine)] += 1;
        } else {
            either[usize::from(true_index)] += 1;
        }
    }
    let known: Vec<f64> =
        (0..256).filter(|index| either[*index] > 0).map(|index| both[index] as f64 / either[index] as f64).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Returns the images that are shown, the most telling first: the worst and the best in turn up to half of them, and then class by
/// class the worst and the best in turn. Without scores they are spread evenly over the set.
fn choose(entries: &BTreeMap<String, ImageEntry>, scores: &BTreeMap<String, f64>, wanted: usize) -> Vec<String> {
    let mut ranked: Vec<(&String, f64)> = scores.iter().map(|(id, score)| (id, *score)).collect();
    ranked.sort_by(|one, other| one.1.total_cmp(&other.1));
    if ranked.is_empty() {
        let step = entries.len().div_ceil(wanted.max(1)).max(1);
        return entries.keys().step_by(step).take(wanted).cloned().collect();
    }
    let wanted = wanted.min(ranked.len());
    let mut chosen: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for at in 0..wanted / 4 {
        for (id, _) in [ranked[at], ranked[ranked.len() - 1 - at]] {
            if seen.insert(id) {
                chosen.push(id.clone());
            }
        }
    }
    let labels: BTreeSet<u8> = entries.values().flat_map(|entry| entry.labels.iter().copied()).collect();
    let of_class = |label: u8| -> Vec<&String> {
        ranked.iter().map(|(id, _)| *id).filter(|id| entries[*id].labels.contains(&label)).collect()
    };
    let classes: Vec<Vec<&String>> = labels.into_iter().map(of_class).collect();
    for round in 0..ranked.len() {
        for class in &classes {
            let from_both_ends = if round % 2 == 0 { Some(round / 2) } else { class.len().checked_sub(1 + round / 2) };
            if chosen.len() >= wanted {
                return chosen;
            }
            if let Some(id) = from_both_ends.and_then(|at| class.get(at))
                && seen.insert(id)
            {
                chosen.push((*id).clone());
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_classes_that_either_has() {
        let mask = LabelMap::new(1, 6, vec![0, 0, 1, 1, 2, 255]);
        let truth = LabelMap::new(1, 6, vec![0, 1, 1, 1, 255, 0]);
        // Background 1 of 2, class 1 two of three; what is unsure on either side does not count.
        assert_eq!(mean_iou(&mask, &truth), Some(f64::midpoint(1.0 / 2.0, 2.0 / 3.0)));
        assert_eq!(mean_iou(&mask, &LabelMap::new(1, 1, vec![0])), None);
    }

    #[test]
    fn the_best_the_worst_and_every_class_are_chosen() {
        let entry = |index: usize| ImageEntry {
            id: format!("i{index:02}"),
            image: Digest::of(b""),
            height: 1,
            width: 1,
            labels: vec![u8::from(index == 20)],
            mask: None,
        };
        let entries: BTreeMap<String, ImageEntry> = (0..40).map(|at| (format!("i{at:02}"), entry(at))).collect();
        let scores: BTreeMap<String, f64> = (0..40).map(|at| (format!("i{at:02}"), at as f64 / 40.0)).collect();
        let chosen = choose(&entries, &scores, 8);
        assert_eq!(chosen, ["i00", "i39", "i01", "i38", "i20", "i02", "i37", "i03"]);
        assert_eq!(choose(&entries, &BTreeMap::new(), 4), ["i00", "i10", "i20", "i30"]);
    }

    #[test]
    fn masks_have_the_colours_that_their_classes_are_said_to_have() {
        let classes = ["background", "cat", "dog"].map(str::to_owned);
        let pair = |name: &str, colour: &str| (name.to_owned(), colour.to_owned());
        assert_eq!(
            colours([1, 0, 1, 7].iter(), &classes),
            [
                pair("background", "rgb(0, 0, 0)"),
                pair("cat", "rgb(128, 0, 0)"),
                pair("dog", "rgb(0, 128, 0)"),
                pair("class 8", "rgb(64, 0, 0)"),
                pair("unsure or not counted", "rgb(224, 224, 192)"),
            ]
        );
    }

    #[test]
    fn rows_that_there_is_no_room_for_are_left_out() {
        let row = |id: &str, bytes: usize| ImageRow {
            id: id.to_owned(),
            classes: Vec::new(),
            score: None,
            width: 1,
            height: 1,
            cells: vec![None, Some(single("x".repeat(bytes)))],
        };
        let order = ["c", "a", "b"].map(str::to_owned);
        let kept = |room: usize| {
            let mut rows = vec![row("a", 50), row("b", 10), row("c", 30)];
            let taken = fit(&mut rows, &order, room);
            (rows.iter().map(|row| row.id.clone()).collect::<String>(), taken)
        };
        assert_eq!(kept(90), ("abc".to_owned(), 90));
        assert_eq!(kept(89), ("ac".to_owned(), 80));
        assert_eq!(kept(79), ("c".to_owned(), 30), "a later one does not take the place of an earlier one");
        assert_eq!(kept(0), (String::new(), 0));
    }
}
