//! What the slots of a level are made of, as numbers of rows.
//!
//! Everything here is a function of lengths, orders and boundaries, never of Q, K or V. Nothing here knows how members
//! become one.

use std::ops::Range;

use attnc_pattern::env::{Env, MapData};
use attnc_pattern::expr::LevelId;
use attnc_pattern::program::{Index, Partition, Pool, Program};
use attnc_pattern::slots;

/// Rows of the source of each slot, in order.
#[derive(Debug)]
pub enum Members {
    /// First row and one past the last.
    Ranges(Vec<(i64, i64)>),
    /// Slot j has `rows[begin[j] .. begin[j + 1]]`.
    Lists {
        /// Where the members of each slot begin, and where those of the last end.
        begin: Vec<usize>,
        /// Rows of the source.
        rows: Vec<u32>,
        /// The place of each in its slot, where members are weighed by it.
        places: Vec<u32>,
    },
}

impl Members {
    /// How many a slot has.
    #[must_use]
    pub fn count(&self, slot: usize) -> usize {
        match self {
            Members::Ranges(ranges) => (ranges[slot].1 - ranges[slot].0).max(0) as usize,
            Members::Lists { begin, .. } => begin[slot + 1] - begin[slot],
        }
    }
}

/// The slots of a level that a launch has, of queries or of keys.
#[derive(Debug)]
pub struct Slots {
    /// Their numbers.
    pub numbers: Range<i64>,
    /// What each is made of.
    pub members: Members,
}

impl Slots {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.numbers.end - self.numbers.start).max(0) as usize
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The slots of a level that the launch has, of queries or of keys, with the rows of their source; `parent` are the
/// numbers of the parent's.
///
/// # Errors
/// What has no value, and a level whose slots the environment lacks.
pub fn members(
    program: &Program,
    id: LevelId,
    env: &Env<'_>,
    queries: bool,
    parent: Option<Range<i64>>,
) -> Result<Slots, String> {
    let level = program.level(id);
    let said = |e: attnc_pattern::prepare::EnvError| e.to_string();
    let numbers = if queries {
        slots::rows(program, Index::Slots(id), env).map_err(said)?
    } else {
        slots::candidates(program, Index::Slots(id), env).map_err(said)?
    };
    // What is cut into slots: positions, or slots of the parent.
    let source = match (&parent, queries) {
        (Some(range), _) => range.clone(),
        (None, true) => env.q_start..env.q_start + env.n_q,
        (None, false) => env.k_start..env.k_start + env.n_k,
    };
    let weighted = matches!(level.pool, Pool::Weighted(_));
    if level.parent.is_none() && program.is_scattered(id) {
        let table = env.levels.get(id.0 as usize).ok_or("the slots of a level are not given")?;
        // Of a part of the queries a slot has those that there are.
        let (mut begin, mut rows, mut places) = (vec![0], Vec::with_capacity(table.members.len()), Vec::new());
        let bounds: Vec<usize> = table.begin.iter().map(|&b| b as usize).collect();
        let all = if weighted { self::places(program, id, env, &bounds, &table.members)? } else { Vec::new() };
        for slot in bounds.windows(2) {
            for at in slot[0]..slot[1] {
                if source.contains(&table.members[at]) {
                    rows.push((table.members[at] - source.start) as u32);
                    places.extend(all.get(at));
                }
            }
            begin.push(rows.len());
        }
        return Ok(Slots { numbers, members: Members::Lists { begin, rows, places } });
    }
    // Where slot `j` begins and ends, whatever of it the launch has.
    let bounds = |j: i64| -> Result<(i64, i64), String> {
        Ok(match &level.partition {
            Partition::Blocks(size) => (j * size, (j + 1) * size),
            Partition::Into(n) => {
                let total = if level.parent.is_some() { i128::from(source.end) } else { i128::from(env.n_k) };
                let at = |j: i64| (i128::from(j) * total / i128::from(*n)) as i64;
                (at(j), at(j + 1))
            }
            Partition::Offsets(map) => match env.maps.get(map.0 as usize) {
                Some(MapData::Csr { indptr, .. }) => {
                    let at = |j: i64| usize::try_from(j).ok().and_then(|j| indptr.get(j)).copied().unwrap_or(0);
                    (at(j), at(j + 1))
                }
                _ => return Err("the boundaries of a level are not given".to_owned()),
            },
            Partition::Axes(_) => return Err("boxes of slots".to_owned()),
        })
    };
    let clip = |(start, end): (i64, i64)| {
        let start = start.clamp(source.start, source.end);
        (start - source.start, end.clamp(start, source.end) - source.start)
    };
    if weighted {
        let (mut begin, mut rows, mut places) = (vec![0], Vec::new(), Vec::new());
        for j in numbers.clone() {
            let nominal = bounds(j)?;
            let (start, end) = clip(nominal);
            rows.extend((start..end).map(|r| r as u32));
            places.extend((start..end).map(|r| (r + source.start - nominal.0) as u32));
            begin.push(rows.len());
        }
        return Ok(Slots { numbers, members: Members::Lists { begin, rows, places } });
    }
    let ranges = numbers.clone().map(|j| bounds(j).map(clip)).collect::<Result<_, _>>()?;
    Ok(Slots { numbers, members: Members::Ranges(ranges) })
}

/// The place of each member in its slot: in a block in the order of its members, in a box by its coordinates.
fn places(program: &Program, id: LevelId, env: &Env<'_>, begin: &[usize], members: &[i64]) -> Result<Vec<u32>, String> {
    let level = program.level(id);
    let Partition::Axes(axes) = &level.partition else {
        let in_slot = |w: &[usize]| 0..(w[1] - w[0]) as u32;
        return Ok(begin.windows(2).flat_map(in_slot).collect());
    };
    let number = |e| slots::integer(program, env, e).map_err(|e| e.to_string());
    let mut each = Vec::with_capacity(axes.len());
    for &(axis, size) in axes {
        let axis = program.axis(axis);
        let (extent, stride) = (number(axis.extent)?, number(axis.stride)?);
        each.push((number(program.space.segments[axis.segment].begin)?, stride, extent, size.unwrap_or(extent)));
    }
    let place = |&position: &i64| {
        each.iter().fold(0, |place, &(begin, stride, extent, size)| {
            place * size + (position - begin) / stride.max(1) % extent.max(1) % size.max(1)
        })
    };
    Ok(members.iter().map(|p| place(p) as u32).collect())
}
