//! The pairs of neighbouring pixels that IRN compares, and the cells on the way from one to the other (SPEC 8.2, `PathIndex`).

/// The way from one pixel to another within the radius.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPath {
    /// Rows from the source down to the destination, 0 or more.
    pub rows: isize,
    /// Columns from the source right to the destination; may be negative.
    pub columns: isize,
    /// The cells passed, as (row, column) from the source: the destination first, the source last.
    pub cells: Vec<(isize, isize)>,
}

/// Returns the paths to one half of the disc around a pixel: every destination nearer than `radius`, by length of path and then
/// row by row (SPEC 8.2: 34 for radius 5, 152 for radius 10). The other half are the same pairs seen from the other side.
pub fn paths(radius: usize) -> Vec<PairPath> {
    let radius = radius as isize;
    let mut found: Vec<PairPath> = (1..radius).map(|columns| path(0, columns)).collect();
    for rows in 1..radius {
        let inside = (1 - radius..radius).filter(|columns| rows * rows + columns * columns < radius * radius);
        found.extend(inside.map(|columns| path(rows, columns)));
    }
    found.sort_by_key(|path| path.cells.len());
    found
}

/// All cells of the bounding box that lie nearer than one cell to the line, from the destination back to the source.
fn path(rows: isize, columns: isize) -> PairPath {
    let squared_length = rows * rows + columns * columns;
    let mut cells = Vec::new();
    for row in 0..=rows {
        for column in columns.min(0)..=columns.max(0) {
            let cross = rows * column - columns * row;
            if cross * cross < squared_length {
                cells.push((row, column));
            }
        }
    }
    cells.sort_by_key(|&(row, column)| -(row.abs() + column.abs()));
    PairPath { rows, columns, cells }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPEC 8.2: the order of destinations for radius 5.
    #[test]
    fn destinations_come_in_the_reference_order() {
        let order: Vec<(isize, isize)> = paths(5).iter().map(|path| (path.rows, path.columns)).collect();
        #[rustfmt::skip]
        let expected = [
            (0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (1, -1), (1, 1), (3, 0), (0, 4), (4, 0), (1, -2), (1, 2),
            (2, -1), (2, 1), (2, -2), (2, 2), (1, -3), (1, 3), (2, -3), (2, 3), (3, -2), (3, -1), (3, 1), (3, 2),
            (1, -4), (1, 4), (3, -3), (3, 3), (4, -1), (4, 1), (2, -4), (2, 4), (4, -2), (4, 2),
        ];
        assert_eq!(order, expected);
    }

    /// SPEC 8.2: how many paths have which length, for radius 5 and 10.
    #[test]
    fn paths_are_as_many_and_as_long_as_the_reference_has_them() {
        #[rustfmt::skip]
        let groups: [(usize, &[(usize, usize)]); 2] = [
            (5, &[(2, 2), (2, 3), (4, 4), (2, 5), (4, 6), (2, 7), (8, 8), (6, 10), (4, 11)]),
            (10, &[
                (2, 2), (2, 3), (4, 4), (2, 5), (6, 6), (4, 7), (10, 8), (2, 9), (12, 10), (4, 11), (12, 12), (2, 13),
                (8, 14), (8, 15), (22, 16), (16, 18), (6, 19), (20, 20), (4, 21), (6, 22),
            ]),
        ];
        for (radius, groups) in groups {
            let lengths: Vec<usize> = paths(radius).iter().map(|path| path.cells.len()).collect();
            let expected: Vec<usize> = groups.iter().flat_map(|&(count, length)| vec![length; count]).collect();
            assert_eq!(lengths, expected);
            assert_eq!(lengths.len(), if radius == 5 { 34 } else { 152 });
        }
        assert!(paths(1).is_empty() && paths(0).is_empty());
    }

    #[test]
    fn a_path_starts_at_the_destination_and_stays_in_its_box() {
        for path in paths(10) {
            assert_eq!(path.cells.first(), Some(&(path.rows, path.columns)));
            assert_eq!(path.cells.last(), Some(&(0, 0)));
            for &(row, column) in &path.cells {
                assert!((0..=path.rows).contains(&row));
                assert!((path.columns.min(0)..=path.columns.max(0)).contains(&column));
            }
        }
    }
}
