//! The names of a report's parameters: the one place where they stand. The first name of each is ours, the
//! others are what shops and networks send instead.

/// What a report may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    ClickId,
    OrderId,
    Event,
    Amount,
    Currency,
    Status,
    ReportId,
    Coupon,
    Items,
    CustomerId,
    NewCustomer,
    Email,
    Ip,
    UserAgent,
}

impl Parameter {
    pub const ALL: [Self; 14] = [
        Self::ClickId,
        Self::OrderId,
        Self::Event,
        Self::Amount,
        Self::Currency,
        Self::Status,
        Self::ReportId,
        Self::Coupon,
        Self::Items,
        Self::CustomerId,
        Self::NewCustomer,
        Self::Email,
        Self::Ip,
        Self::UserAgent,
    ];

    /// Every name that it may go by.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::ClickId => &["click_id", "clickid", "subid", "transaction_id"],
            Self::OrderId => &["order_id", "ext_order_id", "tid", "txid"],
            Self::Event => &["event"],
            Self::Amount => &["amount", "payout", "revenue"],
            Self::Currency => &["currency"],
            Self::Status => &["status"],
            Self::ReportId => &["report_id", "refund_id"],
            Self::Coupon => &["coupon", "coupon_code", "promo_code"],
            Self::Items => &["items"],
            Self::CustomerId => &["customer_id"],
            Self::NewCustomer => &["new_customer"],
            Self::Email => &["email"],
            Self::Ip => &["ip"],
            Self::UserAgent => &["user_agent"],
        }
    }

    /// Its proper name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.names()[0]
    }

    /// The parameter of that name, and the place of the name among its names.
    pub(super) fn named(name: &str) -> Option<(Self, usize)> {
        Self::ALL.into_iter().find_map(|parameter| {
            let place = parameter.names().iter().position(|known| *known == name)?;
            Some((parameter, place))
        })
    }

    /// Whether it says who the customer is: that is written down nowhere.
    pub(super) fn is_personal(self) -> bool {
        matches!(self, Self::CustomerId | Self::Email | Self::Ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_two_parameters() {
        for parameter in Parameter::ALL {
            for (place, name) in parameter.names().iter().enumerate() {
                assert_eq!(Parameter::named(name), Some((parameter, place)), "{name}");
            }
        }
        assert_eq!(Parameter::named("Amount"), None);
        assert_eq!(Parameter::named(""), None);
    }

    #[test]
    fn each_stands_at_its_own_place() {
        for (place, parameter) in Parameter::ALL.into_iter().enumerate() {
            assert_eq!(parameter as usize, place);
        }
    }
}
