//! Commission rules: what an order earns whom, and why.
//!
//! Everything here is a pure function of its arguments: no database, no clock. The same rules,
//! order and figures give the same commissions, in whatever order the rules are given. Money is
//! exact until a commission is rounded, once; no document, expression or number makes it panic.
//!
//! [`check`] says what is wrong with a rule before it is saved. To price: [`RuleSet::at`] picks the
//! versions in force, [`needs`] lists the figures to load, [`price`] gives the commissions with the
//! steps that led there. The processor pays by it, the admin API previews by it.

mod choose;
mod clicks;
mod condition;
mod exchange;
mod explain;
mod expression;
mod figures;
mod occasion;
mod price;
mod program;
mod rule;
mod split;
mod uplines;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;

pub use choose::{RuleSet, Version};
pub use clicks::{CLICK_FACTS, ClickPeriod};
pub use condition::{Condition, MAX_EXPRESSION_CHARS};
pub use exchange::Rate;
pub use explain::{Step, What};
pub use expression::variables;
pub use figures::{CustomerHistory, Figures, Need, Needs, needs};
pub use occasion::{Affiliate, CLICK, Customer, Item, Occasion, SALE};
pub use price::{Commission, CommissionKind, Part, PriceError, Priced, RuleRef, price};
pub use program::{PayIn, Program, UplineOf, Uplines};
pub use rule::{
    Bonus, BonusFor, Cap, Document, EXAMPLE, Goal, Kind, Measure, Number, Per, Period, Problem,
    Recurring, Reward, RewardKind, Rule, Scope, TierStep, Tiers, Uplift, Window, check,
};
pub use split::{MAX_PARTS, SHARE_DIGITS, Share, SplitError, shares, split};
