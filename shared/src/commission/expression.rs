//! What a condition's expression may say, told before it is ever evaluated.
//!
//! The Common Expression Language checks types only as it runs, so an expression with a mistake in
//! it could be saved and would fail on the one order that reaches it. Here every name, function and
//! operand is checked when the rule is saved. What would let a short expression do much work
//! (loops in loops) is refused, so evaluating one costs no more than its length times the order's
//! lines.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, ListExpr, LiteralValue, operators};

/// How deep operators, calls and brackets may stand in each other.
pub(super) const MAX_DEPTH: usize = 40;

/// What a value can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Whole,
    Number,
    Text,
}

/// What an expression gives: a value, or a list of values (of none, where the list is empty).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    One(Scalar),
    List(Option<Scalar>),
}

const BOOL: Type = Type::One(Scalar::Bool);
const WHOLE: Type = Type::One(Scalar::Whole);
const NUMBER: Type = Type::One(Scalar::Number);
const TEXT: Type = Type::One(Scalar::Text);
const TEXTS: Type = Type::List(Some(Scalar::Text));

/// Every variable of a condition. `order.amount` is the whole order's, in its own currency;
/// `order.items` counts pieces; a text that is not known is empty, a condition that is not known false.
pub(super) const VARIABLES: &[(&str, Type)] = &[
    ("order.amount", NUMBER),
    ("order.currency", TEXT),
    ("order.event", TEXT),
    ("order.coupon", TEXT),
    ("order.items", WHOLE),
    ("customer.new", BOOL),
    ("customer.known", BOOL),
    ("affiliate.id", WHOLE),
    ("affiliate.tier", TEXT),
    ("affiliate.groups", TEXTS),
    ("affiliate.tags", TEXTS),
    ("affiliate.certifications", TEXTS),
    ("products", TEXTS),
    ("categories", TEXTS),
    ("campaign", TEXT),
    ("sub1", TEXT),
    ("sub2", TEXT),
    ("sub3", TEXT),
    ("sub4", TEXT),
    ("sub5", TEXT),
    ("country", TEXT),
    ("device", TEXT),
];

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::One(Scalar::Bool) => "true or false",
            Self::One(Scalar::Whole) => "a whole number",
            Self::One(Scalar::Number) => "a decimal number",
            Self::One(Scalar::Text) => "a text",
            Self::List(_) => "a list",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::One(Scalar::Whole | Scalar::Number))
    }

    /// What it is when it is either this or `other`, if that is one type.
    fn or(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::List(None), Self::List(_)) => Some(other),
            (Self::List(_), Self::List(None)) => Some(self),
            _ => (self == other).then_some(self),
        }
    }

    /// Whether `==` between the two can ever say anything.
    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::List(None), Self::List(_)) | (Self::List(_), Self::List(None)) => true,
            (Self::List(Some(a)), Self::List(Some(b))) => Self::One(a).is_like(Self::One(b)),
            (a, b) => a == b || (a.is_number() && b.is_number()),
        }
    }
}

/// A name that a loop gives (`products.exists(p, …)`).
type Local<'e> = (&'e str, Type);

/// The name of every variable and what it is, for who lists them.
pub fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    VARIABLES.iter().map(|(name, found)| {
        let what = match found {
            Type::List(_) => "a list of texts",
            found => found.name(),
        };
        (*name, what)
    })
}

/// What the whole expression gives.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn type_of(expression: &IdedExpr) -> Result<Type, String> {
    Checker { locals: Vec::new() }.of(expression, 0)
}

struct Checker<'e> {
    locals: Vec<Local<'e>>,
}

impl<'e> Checker<'e> {
    fn of(&mut self, expression: &'e IdedExpr, depth: usize) -> Result<Type, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        let depth = depth + 1;
        match &expression.expr {
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let Expr::Ident(of) = &select.operand.expr else {
                    return Err(format!("nothing has a field {:?} here", select.field));
                };
                if self.locals.iter().any(|(local, _)| local == of) {
                    return Err(format!("{of} has no field {:?}", select.field));
                }
                let found = self.variable(&format!("{of}.{}", select.field))?;
                Ok(if select.test { BOOL } else { found })
            }
            Expr::Call(call) => self.call(call, depth),
            Expr::List(list) => self.list(list, depth),
            Expr::Comprehension(each) => self.comprehension(each, depth),
            Expr::Map(_) | Expr::Struct(_) => Err("it may not hold {…}".to_owned()),
            Expr::Unspecified => Err("a part of it is missing".to_owned()),
        }
    }

    fn variable(&self, name: &str) -> Result<Type, String> {
        let local = self.locals.iter().rev().find(|(local, _)| *local == name);
        local
            .or_else(|| VARIABLES.iter().find(|(known, _)| *known == name))
            .map(|(_, found)| *found)
            .ok_or_else(|| {
                let fields: Vec<&str> = VARIABLES
                    .iter()
                    .map(|(known, _)| *known)
                    .filter(|known| {
                        let root = name.split('.').next().unwrap_or(name);
                        known.split_once('.').is_some_and(|(of, _)| of == root)
                    })
                    .collect();
                if fields.is_empty() {
                    format!("there is no variable {name:?}")
                } else {
                    format!("there is no variable {name:?}, but {}", fields.join(", "))
                }
            })
    }

    fn call(&mut self, call: &'e CallExpr, depth: usize) -> Result<Type, String> {
        let mut operands = Vec::with_capacity(call.args.len() + 1);
        for operand in call.target.as_deref().into_iter().chain(&call.args) {
            operands.push(self.of(operand, depth)?);
        }
        let method = call.target.is_some();
        let wrong = |wanted: &str| {
            let given: Vec<&str> = operands.iter().map(|given| given.name()).collect();
            Err(format!(
                "{} takes {wanted}, not {}",
                operator(&call.func_name),
                given.join(" and ")
            ))
        };
        match (call.func_name.as_str(), method, operands.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, false, [a, b]) => {
                if (*a, *b) == (BOOL, BOOL) {
                    Ok(BOOL)
                } else {
                    wrong("two that are true or false")
                }
            }
            (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, false, [a]) => {
                if *a == BOOL {
                    Ok(BOOL)
                } else {
                    wrong("what is true or false")
                }
            }
            (operators::EQUALS | operators::NOT_EQUALS, false, [a, b]) => {
                if a.is_like(*b) {
                    Ok(BOOL)
                } else {
                    wrong("two of a kind")
                }
            }
            (
                operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                false,
                [a, b],
            ) => {
                if (a.is_number() && b.is_number()) || (*a, *b) == (TEXT, TEXT) {
                    Ok(BOOL)
                } else {
                    wrong("two numbers or two texts")
                }
            }
            (operators::IN, false, [a, Type::List(of)]) => {
                if of.is_none_or(|of| a.is_like(Type::One(of))) {
                    Ok(BOOL)
                } else {
                    wrong("a value and a list of such values")
                }
            }
            (operators::IN, false, _) => wrong("a value and a list"),
            (operators::ADD, false, [a @ Type::List(_), b @ Type::List(_)]) => {
                a.or(*b).map_or_else(|| wrong("two lists of a kind"), Ok)
            }
            (
                operators::ADD
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO,
                false,
                [a, b],
            ) => match (*a, *b) {
                (WHOLE, WHOLE) => Ok(WHOLE),
                (NUMBER, NUMBER) if call.func_name != operators::MODULO => Ok(NUMBER),
                _ => wrong(
                    "two whole or two decimal numbers (2.0 is a decimal one, as is double(order.items))",
                ),
            },
            (operators::NEGATE, false, [a]) if a.is_number() => Ok(*a),
            (operators::CONDITIONAL, false, [BOOL, a, b]) => a
                .or(*b)
                .map_or_else(|| wrong("a condition and two of a kind"), Ok),
            (operators::INDEX, false, [Type::List(of), WHOLE]) => of
                .map(Type::One)
                .ok_or_else(|| "the list is empty".to_owned()),
            ("size", _, [Type::List(_) | TEXT]) => Ok(WHOLE),
            ("size", ..) => wrong("one list or text"),
            ("contains" | "startsWith" | "endsWith", true, [TEXT, TEXT]) => Ok(BOOL),
            ("contains" | "startsWith" | "endsWith", ..) => wrong("a text, called on a text"),
            ("double", false, [a]) if a.is_number() => Ok(NUMBER),
            ("int", false, [a]) if a.is_number() => Ok(WHOLE),
            ("double" | "int" | operators::NEGATE, ..) => wrong("one number"),
            (operators::INDEX, ..) => wrong("a list and a whole number"),
            _ => Err(format!(
                "there is no {} here; there are size, contains, startsWith, endsWith, double, int, exists, all, exists_one, filter and map",
                operator(&call.func_name)
            )),
        }
    }

    fn list(&mut self, list: &'e ListExpr, depth: usize) -> Result<Type, String> {
        let mut of = None;
        for element in &list.elements {
            let Type::One(scalar) = self.of(element, depth)? else {
                return Err("a list may not hold lists".to_owned());
            };
            match of {
                None => of = Some(scalar),
                Some(of) if Type::One(of).is_like(Type::One(scalar)) => {}
                Some(_) => return Err("a list may hold one kind of values only".to_owned()),
            }
        }
        Ok(Type::List(of))
    }

    fn comprehension(&mut self, each: &'e ComprehensionExpr, depth: usize) -> Result<Type, String> {
        if !self.locals.is_empty() {
            return Err("it may not hold a loop in a loop".to_owned());
        }
        let Type::List(of) = self.of(&each.iter_range, depth)? else {
            return Err("only a list has exists, all, exists_one, filter and map".to_owned());
        };
        if each.iter_var2.is_some() || each.iter_var.is_empty() {
            return Err("a loop has one name".to_owned());
        }
        let init = self.of(&each.accu_init, depth)?;
        self.locals
            .push((&each.iter_var, Type::One(of.unwrap_or(Scalar::Text))));
        self.locals.push((&each.accu_var, init));
        let checked = self
            .of(&each.loop_cond, depth)
            .and_then(|_| self.of(&each.loop_step, depth))
            .and_then(|step| {
                // A list that is built begins empty; its first step says of what.
                if let Some((_, result)) = self.locals.last_mut() {
                    *result = step;
                }
                self.of(&each.result, depth)
            });
        self.locals.clear();
        checked
    }
}

fn literal_type(literal: &LiteralValue) -> Result<Type, String> {
    match literal {
        LiteralValue::Boolean(_) => Ok(BOOL),
        LiteralValue::Int(_) => Ok(WHOLE),
        LiteralValue::Double(_) => Ok(NUMBER),
        LiteralValue::String(_) => Ok(TEXT),
        LiteralValue::UInt(_) => Err("write 1 instead of 1u".to_owned()),
        LiteralValue::Bytes(_) => Err("write 'a' instead of b'a'".to_owned()),
        LiteralValue::Null => Err("nothing is ever null here; a missing text is ''".to_owned()),
    }
}

/// A function's name as it is written: `_&&_` is `&&`.
fn operator(name: &str) -> &str {
    match name {
        operators::CONDITIONAL => "?:",
        operators::INDEX => "[ ]",
        _ => name.trim_matches(|c| c == '_' || c == '@'),
    }
}
