//! Normal forms of integer expressions, and what they prove.
//!
//! An integer expression is a sum `c1 * a1 + c2 * a2 + .. + c` over atoms that are not sums. Two spellings
//! of one affine form have one normal form, so that `q - k < w` and `k + w > q` are the same constraint.
//! Floors and remainders give up what divides evenly: `(64 * x + y) / 64 = x + y / 64`.
//! Rules about a run-time divisor hold where it is not zero. Nothing here knows of queries or rows.

use std::cell::RefCell;

use smallvec::{SmallVec, smallvec};

use crate::build::{floor_div, floor_mod};
use crate::expr::{Bin, Cmp, ExprId, Exprs, Node, Operands, Ty, Un, Var};

/// `sum of coefficient * atom + constant`; atoms ascending by id, no coefficient is 0.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Linear {
    pub(crate) terms: Terms,
    pub(crate) constant: i64,
}

/// Few sums have more terms than these, and sums are made by the hundred.
pub(crate) type Terms = SmallVec<[(ExprId, i64); 3]>;

impl Clone for Linear {
    fn clone(&self) -> Self {
        Linear { terms: Terms::from_slice(&self.terms), constant: self.constant }
    }
}

impl Linear {
    pub(crate) fn constant(constant: i64) -> Self {
        Linear { terms: smallvec![], constant }
    }

    pub(crate) fn atom(id: ExprId) -> Self {
        Linear { terms: smallvec![(id, 1)], constant: 0 }
    }

    /// `self + other * factor`, unless an integer does not fit.
    pub(crate) fn plus(&self, other: &Linear, factor: i64) -> Option<Linear> {
        let constant = self.constant.checked_add(other.constant.checked_mul(factor)?)?;
        let mut terms = Terms::with_capacity(self.terms.len() + other.terms.len());
        let (mut a, mut b) = (self.terms.iter().peekable(), other.terms.iter().peekable());
        loop {
            let (id, c) = match (a.peek(), b.peek()) {
                (Some(&&(x, c)), Some(&&(y, d))) if x == y => {
                    a.next();
                    b.next();
                    (x, c.checked_add(d.checked_mul(factor)?)?)
                }
                (Some(&&(x, c)), y) if y.is_none_or(|y| x < y.0) => {
                    a.next();
                    (x, c)
                }
                (_, Some(&&(y, d))) => {
                    b.next();
                    (y, d.checked_mul(factor)?)
                }
                (_, None) => break,
            };
            if c != 0 {
                terms.push((id, c));
            }
        }
        Some(Linear { terms, constant })
    }

    /// `self * factor`, unless an integer does not fit.
    pub(crate) fn times(&self, factor: i64) -> Option<Linear> {
        Linear::default().plus(self, factor)
    }

    fn coefficient(&self, id: ExprId) -> i64 {
        self.terms.binary_search_by_key(&id, |t| t.0).map_or(0, |i| self.terms[i].1)
    }

    fn as_atom(&self) -> Option<ExprId> {
        match *self.terms {
            [(id, 1)] if self.constant == 0 => Some(id),
            _ => None,
        }
    }
}

/// What is remembered of expressions: a table by id in pages, made when something of them is remembered. A large
/// program has many sets, each of which reads little of one arena.
pub(super) struct Memo<T>(Vec<Option<Box<[Option<T>; PAGE]>>>);

/// Expressions of a page of a [`Memo`].
const PAGE: usize = 16;

impl<T> Memo<T> {
    pub(super) fn new() -> Self {
        Memo(vec![])
    }

    pub(super) fn get(&self, id: ExprId) -> Option<&T> {
        let id = id.0 as usize;
        self.0.get(id / PAGE)?.as_ref()?[id % PAGE].as_ref()
    }

    pub(super) fn insert(&mut self, id: ExprId, value: T) {
        let (page, at) = (id.0 as usize / PAGE, id.0 as usize % PAGE);
        if self.0.len() <= page {
            self.0.resize_with(page + 1, || None);
        }
        self.0[page].get_or_insert_with(|| Box::new([const { None }; PAGE]))[at] = Some(value);
    }
}

/// Least and greatest value, where known.
type Span = (Option<i128>, Option<i128>);

/// Expressions together with the normal forms found so far.
pub(crate) struct Algebra<'a> {
    pub(crate) exprs: &'a mut Exprs,
    normal: Memo<Linear>,
    canonical: Memo<ExprId>,
    spans: RefCell<Memo<Span>>,
}

/// Greatest common divisor, not negative.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).unwrap_or(1)
}

impl<'a> Algebra<'a> {
    pub(crate) fn new(exprs: &'a mut Exprs) -> Self {
        Algebra { exprs, normal: Memo::new(), canonical: Memo::new(), spans: RefCell::new(Memo::new()) }
    }

    /// The one spelling of an expression's normal form.
    pub(crate) fn canon(&mut self, id: ExprId) -> ExprId {
        if let Some(&c) = self.canonical.get(id) {
            return c;
        }
        let canonical = match self.exprs.ty(id) {
            Ty::Int => {
                let linear = self.linear(id);
                self.expr(&linear)
            }
            Ty::Bool => self.canon_bool(id),
            Ty::Real => self.rebuilt(id),
        };
        self.canonical.insert(id, canonical);
        self.canonical.insert(canonical, canonical);
        canonical
    }

    fn rebuilt(&mut self, id: ExprId) -> ExprId {
        let operands: Operands = self.exprs.operands(id).into_iter().map(|o| self.canon(o)).collect();
        self.exprs.rebuild(id, &operands)
    }

    fn canon_bool(&mut self, id: ExprId) -> ExprId {
        if let Node::Cmp(op, a, b) = *self.exprs.node(id)
            && self.exprs.ty(a) == Ty::Int
        {
            let difference = self.difference(a, b);
            return match difference {
                Some(d) => self.compared(op, &d),
                None => self.rebuilt(id),
            };
        }
        self.rebuilt(id)
    }

    /// The normal form of `a - b`, unless an integer does not fit.
    pub(crate) fn difference(&mut self, a: ExprId, b: ExprId) -> Option<Linear> {
        let (a, b) = (self.linear(a), self.linear(b));
        let d = a.plus(&b, -1)?;
        Some(self.recombined(d))
    }

    /// `d op 0` in its one spelling: positive terms to the left, divided by what they have in common.
    pub(crate) fn compared(&mut self, op: Cmp, d: &Linear) -> ExprId {
        // Integers: d < 0 is d + 1 <= 0.
        let (op, mut d) = match op {
            Cmp::Lt => match d.plus(&Linear::constant(1), 1) {
                Some(d) => (Cmp::Le, d),
                None => (Cmp::Lt, d.clone()),
            },
            op => (op, d.clone()),
        };
        if let Some(known) = self.decided(op, &d) {
            return self.exprs.bool(known);
        }
        let common = d.terms.iter().fold(0, |g, t| gcd(g, t.1));
        if common > 1 {
            let even = d.constant % common == 0;
            match op {
                Cmp::Eq if !even => return self.exprs.bool(false),
                Cmp::Ne if !even => return self.exprs.bool(true),
                Cmp::Lt if !even => {}
                _ => {
                    d.terms.iter_mut().for_each(|t| t.1 /= common);
                    // g * x + c <= 0 is x <= floor(-c / g), that is x + ceil(c / g) <= 0.
                    d.constant = d.constant.div_euclid(common) + i64::from(d.constant.rem_euclid(common) != 0);
                }
            }
        }
        if matches!(op, Cmp::Eq | Cmp::Ne)
            && d.terms.first().is_some_and(|t| t.1 < 0)
            && let Some(flipped) = d.times(-1)
        {
            d = flipped;
        }
        let (mut left, mut right) = (Linear::default(), Linear::default());
        for &(id, c) in &d.terms {
            match c.checked_neg() {
                Some(n) if c < 0 => right.terms.push((id, n)),
                _ => left.terms.push((id, c)),
            }
        }
        match d.constant.checked_neg() {
            Some(n) if n > 0 => right.constant = n,
            _ => left.constant = d.constant,
        }
        let (left, right) = (self.expr(&left), self.expr(&right));
        self.exprs.cmp(op, left, right)
    }

    /// Whether `d op 0` holds for all inputs, or for none.
    fn decided(&self, op: Cmp, d: &Linear) -> Option<bool> {
        let (lo, hi) = self.bounds_of(d);
        let apart = lo.is_some_and(|lo| lo > 0) || hi.is_some_and(|hi| hi < 0);
        match op {
            Cmp::Lt | Cmp::Le => {
                let most = i128::from(op == Cmp::Le) - 1;
                if hi.is_some_and(|hi| hi <= most) {
                    Some(true)
                } else {
                    lo.is_some_and(|lo| lo > most).then_some(false)
                }
            }
            Cmp::Eq => apart.then_some(false),
            Cmp::Ne => apart.then_some(true),
        }
    }

    /// The expression of a normal form.
    pub(crate) fn expr(&mut self, linear: &Linear) -> ExprId {
        let scaled = |e: &mut Exprs, id: ExprId, c: i64| {
            let c = e.int(c);
            e.mul(id, c)
        };
        let mut sum = None;
        for &(id, c) in linear.terms.iter().filter(|t| t.1 > 0 || t.1 == i64::MIN) {
            let term = scaled(self.exprs, id, c);
            sum = Some(match sum {
                Some(s) => self.exprs.intern(Node::Bin(Bin::Add, s, term)),
                None => term,
            });
        }
        let mut constant = linear.constant;
        let mut sum = sum.unwrap_or_else(|| self.exprs.int(std::mem::take(&mut constant)));
        for &(id, c) in linear.terms.iter().filter(|t| t.1 < 0 && t.1 != i64::MIN) {
            let term = scaled(self.exprs, id, -c);
            sum = self.exprs.intern(Node::Bin(Bin::Sub, sum, term));
        }
        if constant == 0 || linear.terms.is_empty() {
            return sum;
        }
        let constant = self.exprs.int(constant);
        self.exprs.intern(Node::Bin(Bin::Add, sum, constant))
    }

    /// The normal form of an integer expression.
    pub(crate) fn linear(&mut self, id: ExprId) -> Linear {
        if let Some(l) = self.normal.get(id) {
            return l.clone();
        }
        let linear = self.normalise(id).unwrap_or_else(|| Linear::atom(id));
        self.normal.insert(id, linear.clone());
        linear
    }

    fn normalise(&mut self, id: ExprId) -> Option<Linear> {
        Some(match *self.exprs.node(id) {
            Node::Int(v) => Linear::constant(v),
            Node::Var(_) => Linear::atom(id),
            Node::Bin(op, a, b) => {
                let (x, y) = (self.linear(a), self.linear(b));
                match op {
                    Bin::Add => {
                        let sum = x.plus(&y, 1)?;
                        self.recombined(sum)
                    }
                    Bin::Sub => {
                        let sum = x.plus(&y, -1)?;
                        self.recombined(sum)
                    }
                    Bin::Mul => self.product(&x, &y)?,
                    Bin::Div => self.quotient(&x, &y)?,
                    Bin::Mod => self.remainder(&x, &y)?,
                    Bin::Min | Bin::Max => self.rebuilt_linear(id),
                }
            }
            Node::Un(Un::Neg, a) => self.linear(a).times(-1)?,
            _ => self.rebuilt_linear(id),
        })
    }

    /// An atom with operands in normal form; constants may fold.
    fn rebuilt_linear(&mut self, id: ExprId) -> Linear {
        let new = self.rebuilt(id);
        match *self.exprs.node(new) {
            Node::Int(v) => Linear::constant(v),
            // Operands of a sum are in normal form already.
            Node::Bin(Bin::Add | Bin::Sub | Bin::Mul, ..) | Node::Un(Un::Neg, _) => self.linear(new),
            Node::Bin(Bin::Div | Bin::Mod, ..) if new != id => self.linear(new),
            _ => {
                let atom = Linear::atom(new);
                self.normal.insert(new, atom.clone());
                atom
            }
        }
    }

    fn fixed_atom(&mut self, id: ExprId) -> Linear {
        let linear = match *self.exprs.node(id) {
            Node::Int(v) => Linear::constant(v),
            _ => Linear::atom(id),
        };
        self.normal.insert(id, linear.clone());
        linear
    }

    /// `x - x % m` is `m * (x / m)`, and `m * (x / m) + x % m` is `x`.
    pub(super) fn recombined(&mut self, sum: Linear) -> Linear {
        for &(id, c) in &sum.terms {
            let Node::Bin(Bin::Mod, g, m) = *self.exprs.node(id) else { continue };
            let (inner, modulus) = (self.linear(g), self.linear(m));
            let quotient = self.exprs.div(g, m);
            let quotient = self.linear(quotient);
            let Some(floor) = self.product(&quotient, &modulus) else { continue };
            let rewritten = sum
                .plus(&Linear::atom(id), c.wrapping_neg())
                .and_then(|s| s.plus(&inner, c))
                .and_then(|s| s.plus(&floor, c.wrapping_neg()));
            if let Some(better) = rewritten
                && better.terms.len() < sum.terms.len()
            {
                return self.recombined(better);
            }
            if let Some(better) = sum.plus(&inner, c).and_then(|s| s.plus(&Linear::atom(id), c.wrapping_neg()))
                && let Some(better) = better.plus(&floor, c.wrapping_neg())
                && better.terms.len() <= sum.terms.len()
                && inner.terms.iter().all(|&(t, d)| sum.coefficient(t) == c.wrapping_neg().wrapping_mul(d))
                && !inner.terms.is_empty()
            {
                return self.recombined(better);
            }
        }
        sum
    }

    fn product(&mut self, x: &Linear, y: &Linear) -> Option<Linear> {
        if x.terms.is_empty() {
            return y.times(x.constant);
        }
        if y.terms.is_empty() {
            return x.times(y.constant);
        }
        // A square stays whole: a disc is a sum of squares.
        let negated = x.times(-1)?;
        if (x == y || negated == *y) && x.as_atom().is_none() {
            let sign = if x == y { 1 } else { -1 };
            let root = if x.terms[0].1 > 0 { x.clone() } else { negated };
            let root = self.expr(&root);
            let square = self.exprs.intern(Node::Bin(Bin::Mul, root, root));
            return self.fixed_atom(square).times(sign);
        }
        let mut sum = Linear::constant(x.constant.checked_mul(y.constant)?);
        sum = sum.plus(&Linear { terms: x.terms.clone(), constant: 0 }, y.constant)?;
        sum = sum.plus(&Linear { terms: y.terms.clone(), constant: 0 }, x.constant)?;
        for &(a, c) in &x.terms {
            for &(b, d) in &y.terms {
                let mut factors = self.factors(a);
                factors.extend(self.factors(b));
                factors.sort();
                let monomial = self.monomial(&factors);
                sum = sum.plus(&monomial, c.checked_mul(d)?)?;
            }
        }
        Some(sum)
    }

    fn monomial(&mut self, factors: &[ExprId]) -> Linear {
        let mut chain = factors[0];
        for &f in &factors[1..] {
            chain = self.exprs.intern(Node::Bin(Bin::Mul, chain, f));
        }
        self.fixed_atom(chain)
    }

    /// Factors of an atom; the square of a sum is one.
    pub(crate) fn factors(&self, id: ExprId) -> Operands {
        match *self.exprs.node(id) {
            Node::Bin(Bin::Mul, a, b) if !self.is_square(id) => {
                let mut all = self.factors(a);
                all.extend(self.factors(b));
                all
            }
            _ => smallvec![id],
        }
    }

    /// Whether an atom is the square of a sum.
    pub(crate) fn is_square(&self, id: ExprId) -> bool {
        matches!(*self.exprs.node(id), Node::Bin(Bin::Mul, a, b)
            if a == b && matches!(*self.exprs.node(a), Node::Bin(Bin::Add | Bin::Sub, ..) | Node::Bin(Bin::Mul, ..)))
    }

    fn quotient(&mut self, x: &Linear, y: &Linear) -> Option<Linear> {
        if !y.terms.is_empty() {
            return Some(self.quotient_by_expr(x, y));
        }
        let mut divisor = y.constant;
        if divisor == 0 {
            let (x, y) = (self.expr(x), self.expr(y));
            let atom = self.exprs.intern(Node::Bin(Bin::Div, x, y));
            return Some(self.fixed_atom(atom));
        }
        let mut x = x.clone();
        if divisor < 0 {
            x = x.times(-1)?;
            divisor = divisor.checked_neg()?;
        }
        let mut whole = Linear::constant(floor_div(x.constant, divisor)?);
        let mut rest = Linear::constant(floor_mod(x.constant, divisor)?);
        for &(id, c) in &x.terms {
            if c % divisor == 0 { &mut whole } else { &mut rest }.terms.push((id, c));
        }
        whole.terms.iter_mut().for_each(|t| t.1 /= divisor);
        if rest.terms.is_empty() {
            return Some(whole);
        }
        let common = rest.terms.iter().fold(divisor, |g, t| gcd(g, t.1));
        rest.terms.iter_mut().for_each(|t| t.1 /= common);
        rest.constant = floor_div(rest.constant, common)?;
        divisor /= common;
        if divisor == 1 {
            return whole.plus(&rest, 1);
        }
        // floor((floor(u / a) + c) / b) = floor((u + a * c) / (a * b))
        if let [(atom, 1)] = *rest.terms
            && let Node::Bin(Bin::Div, u, a) = *self.exprs.node(atom)
            && let Some(a) = self.exprs.as_int(a)
            && a > 0
        {
            let u = self.linear(u);
            let u = u.plus(&Linear::constant(rest.constant.checked_mul(a)?), 1)?;
            let inner = self.quotient(&u, &Linear::constant(a.checked_mul(divisor)?))?;
            return whole.plus(&inner, 1);
        }
        if let (Some(lo), Some(hi)) = self.bounds_of(&rest)
            && lo >= 0
            && hi < i128::from(divisor)
        {
            return Some(whole);
        }
        let (rest, divisor) = (self.expr(&rest), self.exprs.int(divisor));
        let atom = self.exprs.intern(Node::Bin(Bin::Div, rest, divisor));
        let atom = self.fixed_atom(atom);
        whole.plus(&atom, 1)
    }

    /// Terms of which the divisor is a factor leave the floor.
    fn quotient_by_expr(&mut self, x: &Linear, y: &Linear) -> Linear {
        let divisor = self.expr(y);
        let (whole, rest) = self.split_by(x, y, divisor);
        let opaque = |this: &mut Self, x: &Linear| {
            let x = this.expr(x);
            let atom = this.exprs.intern(Node::Bin(Bin::Div, x, divisor));
            this.fixed_atom(atom)
        };
        if rest == Linear::default() {
            return whole;
        }
        let atom = opaque(self, &rest);
        match whole.plus(&atom, 1) {
            Some(sum) => sum,
            None => opaque(self, x),
        }
    }

    /// `x = whole * m + rest`, the terms of which a positive `m` is a factor being the whole.
    pub(super) fn parts(&mut self, x: &Linear, m: ExprId) -> (Linear, Linear) {
        let by = self.linear(m);
        if !by.terms.is_empty() {
            return self.split_by(x, &by, m);
        }
        let m = by.constant.max(1);
        let mut whole = Linear::constant(x.constant.div_euclid(m));
        let mut rest = Linear::constant(x.constant.rem_euclid(m));
        for &(id, c) in &x.terms {
            if c % m == 0 { whole.terms.push((id, c / m)) } else { rest.terms.push((id, c)) }
        }
        (whole, rest)
    }

    /// `x = whole * divisor + rest`.
    fn split_by(&mut self, x: &Linear, y: &Linear, divisor: ExprId) -> (Linear, Linear) {
        let (mut whole, mut rest) = (Linear::default(), Linear::constant(x.constant));
        let by = if y.as_atom().is_some() { self.factors(divisor) } else { smallvec![divisor] };
        for &(id, c) in &x.terms {
            let mut factors = self.factors(id);
            let divides = by.iter().all(|b| match factors.iter().position(|f| f == b) {
                Some(i) => {
                    factors.remove(i);
                    true
                }
                None => false,
            });
            let quotient = match (divides, factors.is_empty()) {
                (false, _) => {
                    rest.terms.push((id, c));
                    continue;
                }
                (true, true) => Linear::constant(1),
                (true, false) => self.monomial(&factors),
            };
            match whole.plus(&quotient, c) {
                Some(sum) => whole = sum,
                None => rest.terms.push((id, c)),
            }
        }
        (whole, rest)
    }

    fn remainder(&mut self, x: &Linear, y: &Linear) -> Option<Linear> {
        if !y.terms.is_empty() || y.constant <= 0 {
            let divisor = self.expr(y);
            let (_, rest) = self.split_by(x, y, divisor);
            if rest.terms.is_empty() && rest.constant == 0 {
                return Some(rest);
            }
            let rest = self.expr(&rest);
            // x % m % m = x % m
            if matches!(*self.exprs.node(rest), Node::Bin(Bin::Mod, _, m) if m == divisor) {
                return Some(self.linear(rest));
            }
            let atom = self.exprs.intern(Node::Bin(Bin::Mod, rest, divisor));
            return Some(self.fixed_atom(atom));
        }
        let mut modulus = y.constant;
        let mut rest = Linear::constant(floor_mod(x.constant, modulus)?);
        for &(id, c) in &x.terms {
            // The residue nearest to 0 keeps signs, and with them directions.
            let r = floor_mod(c, modulus)?;
            let r = if modulus - r < r || (c < 0 && modulus - r == r) { r - modulus } else { r };
            if r != 0 {
                rest.terms.push((id, r));
            }
        }
        if rest.terms.is_empty() {
            return Some(rest);
        }
        if let (Some(lo), Some(hi)) = self.bounds_of(&rest)
            && lo >= 0
            && hi < i128::from(modulus)
        {
            return Some(rest);
        }
        // (g * x + g * c + d) % (g * m) = g * ((x + c) % m) + d
        let common = rest.terms.iter().fold(modulus, |g, t| gcd(g, t.1));
        let low = rest.constant % common;
        rest.constant /= common;
        rest.terms.iter_mut().for_each(|t| t.1 /= common);
        modulus /= common;
        if let [(atom, 1)] = *rest.terms
            && let Node::Bin(Bin::Mod, u, m) = *self.exprs.node(atom)
            && let Some(m) = self.exprs.as_int(m)
            && m > 0
            && m % modulus == 0
        {
            let u = self.linear(u);
            let u = u.plus(&Linear::constant(rest.constant), 1)?;
            let inner = self.remainder(&u, &Linear::constant(modulus))?;
            return inner.times(common)?.plus(&Linear::constant(low), 1);
        }
        if modulus == 1 {
            return Some(Linear::constant(low));
        }
        let (rest, modulus) = (self.expr(&rest), self.exprs.int(modulus));
        let atom = self.exprs.intern(Node::Bin(Bin::Mod, rest, modulus));
        self.fixed_atom(atom).times(common)?.plus(&Linear::constant(low), 1)
    }

    /// Least and greatest value over all inputs, where known.
    pub(crate) fn bounds(&self, id: ExprId) -> Span {
        if let Some(&known) = self.spans.borrow().get(id) {
            return known;
        }
        let bounds = self.find_bounds(id);
        self.spans.borrow_mut().insert(id, bounds);
        bounds
    }

    /// As [`Algebra::bounds`], of a normal form.
    pub(crate) fn bounds_of(&self, linear: &Linear) -> Span {
        let (mut lo, mut hi) = (Some(i128::from(linear.constant)), Some(i128::from(linear.constant)));
        for &(id, c) in &linear.terms {
            let (a, b) = self.bounds(id);
            let c = i128::from(c);
            let scaled = |x: Option<i128>| x.and_then(|x| x.checked_mul(c));
            let (a, b) = if c >= 0 { (scaled(a), scaled(b)) } else { (scaled(b), scaled(a)) };
            let plus = |x: Option<i128>, y: Option<i128>| x.zip(y).and_then(|(x, y)| x.checked_add(y));
            (lo, hi) = (plus(lo, a), plus(hi, b));
            if lo.is_none() && hi.is_none() {
                break;
            }
        }
        (lo, hi)
    }

    fn find_bounds(&self, id: ExprId) -> Span {
        let of = |x: ExprId| self.bounds(x);
        match *self.exprs.node(id) {
            Node::Int(v) => (Some(v.into()), Some(v.into())),
            // A launch with a negative position, length or size is refused; loops and scores may be anything.
            Node::Var(Var::Modulus) => (Some(1), None),
            Node::Var(v) => (if matches!(v, Var::Loop(_) | Var::Score) { None } else { Some(0) }, None),
            Node::Un(op, a) => match op {
                Un::Pow2
                | Un::Abs
                | Un::DocBegin
                | Un::DocEnd
                | Un::CsrBegin(_)
                | Un::CsrIndex(_)
                | Un::SlotLast(_)
                | Un::DrawCount(_) => (Some(0), None),
                Un::DocOf | Un::PartOf(_) | Un::Isqrt => (Some(-1), None),
                Un::Log2 => (Some(-1), Some(62)),
                Un::Neg => {
                    let (lo, hi) = of(a);
                    (hi.map(|x| -x), lo.map(|x| -x))
                }
                _ => (None, None),
            },
            Node::Bin(op, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                let both = |x: Option<i128>, y: Option<i128>, f: fn(i128, i128) -> Option<i128>| {
                    x.zip(y).and_then(|(x, y)| f(x, y))
                };
                match op {
                    Bin::Add => (both(al, bl, i128::checked_add), both(ah, bh, i128::checked_add)),
                    Bin::Sub => (both(al, bh, i128::checked_sub), both(ah, bl, i128::checked_sub)),
                    Bin::Mul if a == b => (Some(0), None),
                    Bin::Mul => match (al, bl) {
                        (Some(x), Some(y)) if x >= 0 && y >= 0 => {
                            (x.checked_mul(y), ah.zip(bh).and_then(|(x, y)| x.checked_mul(y)))
                        }
                        _ => (None, None),
                    },
                    Bin::Div => match self.exprs.as_int(b) {
                        Some(d) if d > 0 => (al.map(|x| x.div_euclid(d.into())), ah.map(|x| x.div_euclid(d.into()))),
                        _ if bl.is_some_and(|x| x >= 0) && al.is_some_and(|x| x >= 0) => (Some(0), ah),
                        _ => (None, None),
                    },
                    // x % m <= x for x >= 0
                    Bin::Mod => match bl {
                        Some(x) if x >= 0 => {
                            let own = ah.filter(|_| al.is_some_and(|x| x >= 0));
                            (Some(0), bh.map(|x| (x - 1).max(0)).into_iter().chain(own).min())
                        }
                        _ => (None, None),
                    },
                    Bin::Min => (both(al, bl, |x, y| Some(x.min(y))), ah.into_iter().chain(bh).min()),
                    Bin::Max => (al.into_iter().chain(bl).max(), both(ah, bh, |x, y| Some(x.max(y)))),
                }
            }
            Node::Select(_, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                (al.zip(bl).map(|(x, y)| x.min(y)), ah.zip(bh).map(|(x, y)| x.max(y)))
            }
            Node::DrawAt(..) => (Some(-1), None),
            _ => (None, None),
        }
    }

    /// What an atom is at most, where that is no number: a remainder less than its divisor, and floors and products
    /// of remainders.
    fn at_most(&mut self, atom: ExprId) -> Option<Linear> {
        match *self.exprs.node(atom) {
            Node::Bin(Bin::Mod, _, m) if self.exprs.as_int(m).is_none() && self.nonnegative(m) => {
                self.linear(m).plus(&Linear::constant(-1), 1)
            }
            Node::Bin(Bin::Div, x, b) if self.exprs.as_int(b).is_some_and(|b| b > 0) => {
                let (x, b) = (self.linear(x), self.linear(b));
                let mut most = x.clone();
                for &(id, c) in x.terms.iter().filter(|t| t.1 > 0) {
                    if let Some(bound) = self.at_most(id) {
                        most = most.plus(&Linear::atom(id), -c)?.plus(&bound, c)?;
                    }
                }
                if most == x { None } else { self.quotient(&most, &b) }
            }
            Node::Bin(Bin::Mul, ..) => {
                let factors = self.factors(atom);
                if factors.len() < 2 {
                    return None;
                }
                factors.iter().enumerate().find_map(|(i, &f)| {
                    let mut others = factors.clone();
                    others.remove(i);
                    if !others.iter().all(|&o| self.nonnegative(o)) {
                        return None;
                    }
                    let (most, others) = (self.at_most(f)?, self.monomial(&others));
                    self.product(&most, &others)
                })
            }
            _ => None,
        }
    }

    /// Whether `a <= b` for all inputs. `false` says nothing.
    pub(crate) fn proves_le(&mut self, a: ExprId, b: ExprId) -> bool {
        let Some(mut d) = self.difference(b, a) else { return false };
        // -x % m >= 1 - m
        for (id, c) in d.terms.clone() {
            if c < 0
                && let Some(most) = self.at_most(id)
            {
                match d.plus(&Linear::atom(id), -c).and_then(|d| d.plus(&most, c)) {
                    Some(r) => d = r,
                    None => return false,
                }
            }
        }
        if self.bounds_of(&d).0.is_some_and(|lo| lo >= 0) {
            return true;
        }
        // A minimum on the left or a maximum on the right: one operand is enough.
        match (self.exprs.node(a).clone(), self.exprs.node(b).clone()) {
            (Node::Bin(Bin::Min, x, y), _) if self.proves_le(x, b) || self.proves_le(y, b) => true,
            (Node::Bin(Bin::Max, x, y), _) => self.proves_le(x, b) && self.proves_le(y, b),
            (_, Node::Bin(Bin::Max, x, y)) if self.proves_le(a, x) || self.proves_le(a, y) => true,
            (_, Node::Bin(Bin::Min, x, y)) => self.proves_le(a, x) && self.proves_le(a, y),
            _ => false,
        }
    }

    /// Whether an expression is at least 0 for all inputs.
    pub(crate) fn nonnegative(&self, id: ExprId) -> bool {
        self.bounds(id).0.is_some_and(|lo| lo >= 0)
    }

    /// Whether an expression is at least 1 for all inputs.
    pub(crate) fn positive(&self, id: ExprId) -> bool {
        self.bounds(id).0.is_some_and(|lo| lo >= 1)
    }

    pub(crate) fn int(&mut self, v: i64) -> ExprId {
        self.exprs.int(v)
    }

    pub(crate) fn add(&mut self, a: ExprId, b: ExprId) -> ExprId {
        let sum = self.exprs.add(a, b);
        self.canon(sum)
    }

    pub(crate) fn sub(&mut self, a: ExprId, b: ExprId) -> ExprId {
        let difference = self.exprs.sub(a, b);
        self.canon(difference)
    }

    pub(crate) fn offset(&mut self, a: ExprId, by: i64) -> ExprId {
        let by = self.int(by);
        self.add(a, by)
    }

    pub(crate) fn mul(&mut self, a: ExprId, b: ExprId) -> ExprId {
        let product = self.exprs.mul(a, b);
        self.canon(product)
    }

    pub(crate) fn div(&mut self, a: ExprId, b: ExprId) -> ExprId {
        let quotient = self.exprs.div(a, b);
        self.canon(quotient)
    }

    /// ceil(a / b) for b > 0.
    pub(crate) fn div_ceil(&mut self, a: ExprId, b: ExprId) -> ExprId {
        let less = self.offset(b, -1);
        let sum = self.add(a, less);
        self.div(sum, b)
    }

    /// The smaller, by proof where possible.
    pub(crate) fn min(&mut self, a: ExprId, b: ExprId) -> ExprId {
        if self.proves_le(a, b) {
            a
        } else if self.proves_le(b, a) {
            b
        } else {
            let m = self.exprs.min(a, b);
            self.canon(m)
        }
    }

    /// The larger, by proof where possible.
    pub(crate) fn max(&mut self, a: ExprId, b: ExprId) -> ExprId {
        if self.proves_le(a, b) {
            b
        } else if self.proves_le(b, a) {
            a
        } else {
            let m = self.exprs.max(a, b);
            self.canon(m)
        }
    }
}
