//! Payouts on their way out.

#[expect(dead_code, reason = "called by the task that sends payouts")]
mod providers;

pub(crate) use providers::ProviderAddresses;
