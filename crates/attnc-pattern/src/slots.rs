//! Slots of levels as numbers: how many rows and candidates there are, and the members of slots that are no ranges.
//!
//! Everything here is a function of lengths, orders and boundaries, never of Q, K or V; it is computed once, before
//! anything of a launch. Nothing here knows of scores.

use std::ops::Range;

use crate::env::{Env, LevelTable, Side};
use crate::expr::{ExprId, LevelId};
use crate::oracle::{Evaluator, Point};
use crate::order::size;
use crate::prepare::EnvError;
use crate::program::{Index, OrderKind, Partition, Pool, Program};

impl Program {
    /// Whether the slots of a level are not ranges of positions, so that a launch needs them as a [`LevelTable`].
    #[must_use]
    pub fn is_scattered(&self, level: LevelId) -> bool {
        let level = self.level(level);
        match level.parent {
            Some(parent) => self.is_scattered(parent),
            None => level.order.is_some() || matches!(level.partition, Partition::Axes(_)),
        }
    }
}

/// Whether values of a level are weighed by queries, so that each head of the output has its own.
#[must_use]
pub fn weighed(program: &Program, level: LevelId) -> bool {
    let level = program.level(level);
    matches!(level.pool, Pool::SoftmaxMean) || level.parent.is_some_and(|parent| weighed(program, parent))
}

/// Whether the slots of a level differ between heads, by an order or boundaries of their own: it is made for each head
/// apart then, and else once for all heads that share its keys.
#[must_use]
pub fn cut_by_head(program: &Program, level: LevelId) -> bool {
    let level = program.level(level);
    let own = match (&level.partition, level.order.map(|o| &program.order(o).kind)) {
        (_, Some(OrderKind::Sort(by))) => program.tensor(*by).dims.len() > 1,
        (Partition::Offsets(map), _) => program.map(*map).per_head,
        _ => false,
    };
    own || level.parent.is_some_and(|parent| cut_by_head(program, parent))
}

/// Whether each head of the output has its own rows of a level; else those that share a KV head have the same.
#[must_use]
pub fn by_output(program: &Program, level: LevelId, side: Side) -> bool {
    side == Side::Q || cut_by_head(program, level) || (side == Side::V && weighed(program, level))
}

/// An integer over lengths and sizes, not less than 0.
///
/// # Errors
/// An expression without such a value.
pub fn integer(program: &Program, env: &Env<'_>, expr: ExprId) -> Result<i64, EnvError> {
    size(program, env, expr)
}

/// Members and last positions of the slots of a level, found position by position; `env` has its orders.
///
/// # Errors
/// An expression without a value.
pub fn level_table(program: &Program, id: LevelId, env: &Env<'_>) -> Result<LevelTable, EnvError> {
    let level = program.level(id);
    let slots = usize::try_from(size(program, env, level.slots)?).unwrap_or(0);
    let root = root(program, id);
    let places = program.level(root).order.and_then(|o| env.orders.get(o.0 as usize));
    let inside = level.inside.map(|(_, k)| k);
    let roots: Vec<_> = inside.into_iter().chain([level.slot_k]).collect();
    let mut evaluator = Evaluator::new(program, env, &roots);
    let mut members = Vec::new();
    for k in env.k_start..env.k_start + env.n_k {
        let point = Point { k: Some(k), ..Point::default() };
        if inside.is_none_or(|inside| evaluator.truth(inside, point) == Ok(true)) {
            let slot = evaluator.int(level.slot_k, point)?;
            let place = places.and_then(|p| p.get(usize::try_from(k).ok()?)).map_or(k, |&p| i64::from(p));
            members.push((i64::try_from(slot).unwrap_or(-1), place, k));
        }
    }
    members.sort_unstable();
    let (mut begin, mut last) = (vec![0; slots + 1], vec![-1; slots]);
    for &(slot, _, k) in &members {
        if let Some(slot) = usize::try_from(slot).ok().filter(|&s| s < slots) {
            begin[slot + 1] += 1;
            last[slot] = k.max(last[slot]);
        }
    }
    for slot in 0..slots {
        begin[slot + 1] += begin[slot];
    }
    let members: Vec<i64> = members.into_iter().map(|m| m.2).collect();
    Ok(LevelTable { begin: begin.into(), members: members.into(), last: last.into() })
}

/// As [`level_table`], of blocks along an order of all positions that the launch has: the order says who they are. `None`
/// for other levels.
///
/// # Errors
/// A number of slots that has no value.
pub fn block_table(program: &Program, id: LevelId, env: &Env<'_>) -> Result<Option<LevelTable>, EnvError> {
    let (mut at, mut of_slot, mut order) = (Some(id), 1_usize, None);
    while let Some(level) = at.map(|id| program.level(id)) {
        let (Partition::Blocks(size), None) = (&level.partition, level.inside) else { return Ok(None) };
        let Ok(size) = usize::try_from(*size) else { return Ok(None) };
        of_slot = of_slot.saturating_mul(size);
        (at, order) = (level.parent, level.order);
    }
    let places = order.and_then(|o| env.orders.get(o.0 as usize)).filter(|p| p.len() as i64 == env.n_k);
    let (Some(places), 0, 1..) = (places, env.k_start, of_slot) else { return Ok(None) };
    let mut members = vec![-1; places.len()];
    for (k, &place) in places.iter().enumerate() {
        members[place as usize] = k as i64;
    }
    let slots = usize::try_from(size(program, env, program.level(id).slots)?).unwrap_or(0);
    if slots != members.len().div_ceil(of_slot) {
        return Ok(None);
    }
    let begin = (0..=slots).map(|slot| (slot * of_slot).min(members.len()) as i64).collect();
    let last = members.chunks(of_slot).map(|of| of.iter().copied().max().unwrap_or(-1)).collect();
    Ok(Some(LevelTable { begin, members: members.into(), last }))
}

/// The level of tokens that a level is made of in the end.
#[must_use]
pub fn root(program: &Program, mut id: LevelId) -> LevelId {
    while let Some(parent) = program.level(id).parent {
        id = parent;
    }
    id
}

/// The numbers of rows that the queries of a launch have; the first is `DrawTable::first`.
///
/// # Errors
/// An expression without a value.
pub fn rows(program: &Program, index: Index, env: &Env<'_>) -> Result<Range<i64>, EnvError> {
    Ok(match index {
        Index::One => 0..1,
        Index::Queries | Index::Keys if env.n_q == 0 => 0..0,
        Index::Queries | Index::Keys => env.q_start..env.q_start + env.n_q,
        Index::Slots(level) if program.is_scattered(level) => 0..size(program, env, program.level(level).slots)?,
        Index::Slots(_) if env.n_q == 0 => 0..0,
        // Slots of ranges ascend with positions.
        Index::Slots(level) => {
            let slot = program.level(level).slot_q;
            let mut evaluator = Evaluator::new(program, env, &[slot]);
            let mut at = |q| evaluator.int(slot, Point { q: Some(q), ..Point::default() });
            let (first, last) = (at(env.q_start)?, at(env.q_start + env.n_q - 1)?);
            i64::try_from(first).unwrap_or(0)..i64::try_from(last).unwrap_or(-1) + 1
        }
        Index::Branches(count) => 0..size(program, env, count)?,
        Index::Channels => 0..env.dim,
    })
}

/// The numbers of candidates that a launch has.
///
/// # Errors
/// An expression without a value.
pub fn candidates(program: &Program, index: Index, env: &Env<'_>) -> Result<Range<i64>, EnvError> {
    Ok(match index {
        Index::One => 0..1,
        Index::Queries => env.q_start..env.q_start + env.n_q,
        Index::Keys => env.k_start..env.k_start + env.n_k,
        Index::Slots(level) => 0..size(program, env, program.level(level).slots)?,
        Index::Branches(count) => 0..size(program, env, count)?,
        Index::Channels => 0..env.dim,
    })
}

/// `floor(share n)` of a share in (0, 1] that is an exact decimal: the one that its shortest spelling says.
#[must_use]
pub fn floor_share(share: f64, n: i64) -> i64 {
    let (above, below) = decimal(share);
    i64::try_from(i128::from(n) * above / below).unwrap_or(n)
}

/// `ceil(share n)`, likewise.
#[must_use]
pub fn ceil_share(share: f64, n: i64) -> i64 {
    let (above, below) = decimal(share);
    i64::try_from((i128::from(n) * above + below - 1) / below).unwrap_or(n)
}

/// A decimal as a fraction.
fn decimal(share: f64) -> (i128, i128) {
    let text = format!("{share}");
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    // Beyond 20 digits a share of any length is what its first ones say.
    let part = &part[..part.len().min(20)];
    let below = 10_i128.pow(part.len() as u32);
    let digits = format!("{whole}{part}");
    (digits.parse().unwrap_or(below), below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_decimals() {
        assert_eq!((floor_share(0.29, 100), ceil_share(0.29, 100)), (29, 29));
        assert_eq!((floor_share(0.1, 1_000_000_007), ceil_share(0.1, 7)), (100_000_000, 1));
        assert_eq!((floor_share(1.0, 5), floor_share(0.25, 7), ceil_share(0.25, 7)), (5, 1, 2));
    }
}
