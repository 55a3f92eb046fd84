//! A link as the edge answers with it: compiled once, when it comes from Redis, and held in memory by
//! the million. A plain link (one destination, no end, no cap) is [`ActiveLink`] and its destination's
//! text; what routes it stands behind one pointer, and what all links of a tenant or program say
//! alike is held once.

use std::sync::Arc;

use chrono_tz::Tz;
use prost::Message as _;
use quick_cache::sync::Cache;
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::links::{self, CapPeriod, Link};
use tributary_shared::template::Template;

use crate::cookies::CookieDomain;
use tributary_shared::device::{Device, System};

/// Most routes of a link. Beyond a bound of these three, a link is unreadable: one tenant's link
/// must not hold up everybody's redirects.
const MAX_ROUTES: usize = 100;
/// Most variants of a split.
const MAX_VARIANTS: usize = 100;
/// Most values of one condition: more than there are countries.
const MAX_VALUES: usize = 300;
/// Heaviest weight of a variant.
const MAX_WEIGHT: u32 = 1_000_000;
/// Different [`Terms`] that are remembered to be shared.
const SHARED_TERMS: usize = 10_000;

/// A link, ready to be answered with.
#[derive(Debug, PartialEq)]
pub(crate) struct ActiveLink {
    pub(crate) link_id: LinkId,
    pub(crate) tenant_id: TenantId,
    pub(crate) program_id: u64,
    pub(crate) affiliate_id: u64,
    /// How long the attribution cookie lives; at most 136 years.
    pub(crate) window_seconds: u32,
    /// Whether parameters of the click's address are added to the destination's.
    pub(crate) pass_query: bool,
    pub(crate) destination: Template,
    terms: Option<Arc<Terms>>,
    pub(crate) extras: Option<Box<Extras>>,
}

/// What links of one tenant or program have in common.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct Terms {
    fallback: Option<Template>,
    override_hosts: Box<[Box<str>]>,
    cookie_domain: Option<CookieDomain>,
}

/// What only some links have.
#[derive(Debug, PartialEq)]
pub(crate) struct Extras {
    /// Seconds since 1970; 0: never.
    pub(crate) expires_at_s: i64,
    cap: Option<Cap>,
    pub(crate) routes: Box<[Route]>,
    /// In place of the destination where no route matches.
    pub(crate) split: Option<Split>,
}

/// How many clicks are sent to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cap {
    pub(crate) limit: u64,
    pub(crate) period: CapPeriod,
}

/// Destinations with weights, at least one of which isn't 0.
#[derive(Debug, PartialEq)]
pub(crate) struct Split {
    /// The number of its first variant within the link.
    pub(crate) first: u32,
    pub(crate) variants: Box<[Variant]>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Variant {
    pub(crate) destination: Template,
    /// 0: paused.
    pub(crate) weight: u32,
}

/// Conditions and where they lead. Of a condition that isn't given there is none; a value that this
/// redirector doesn't know equals nothing.
#[derive(Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) countries: Option<Box<[[u8; 2]]>>,
    pub(crate) devices: Option<Box<[Device]>>,
    pub(crate) systems: Option<Box<[System]>>,
    pub(crate) languages: Option<Box<[Box<str>]>>,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) split: Split,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Schedule {
    /// None: one that this redirector doesn't know.
    pub(crate) time_zone: Option<Tz>,
    /// Bit 0 Monday ... bit 6 Sunday; 0: every day.
    pub(crate) days: u32,
    pub(crate) from_minute: u32,
    pub(crate) to_minute: u32,
    /// Seconds since 1970; 0: no limit.
    pub(crate) starts_at_s: i64,
    pub(crate) ends_at_s: i64,
}

/// Compiles links. Threads may share one.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// So that a tenant's million links hold its fallback and hosts once. Only a hint: what was
    /// forgotten is held twice.
    terms: Cache<Arc<Terms>, Arc<Terms>>,
}

impl Compiler {
    pub(crate) fn new() -> Self {
        Self {
            terms: Cache::new(SHARED_TERMS),
        }
    }

    /// Reads a link as Redis holds it. None when it is not one, has a destination that can't be used,
    /// or isn't `owner`'s.
    pub(crate) fn compile(&self, stored: &[u8], owner: TenantId) -> Option<ActiveLink> {
        let link = Link::decode(stored).ok()?;
        let tenant_id = TenantId::from_wire(link.tenant_id).filter(|tenant| *tenant == owner)?;
        let link_id = LinkId::from_wire(link.link_id)?;
        let terms = self.terms(&link)?;
        let extras = extras(&link)?;
        let destination = match &extras {
            // Never used; the first stands for it so that a link needs none of its own.
            Some(Extras {
                split: Some(split), ..
            }) if link.destination.is_empty() => split.variants.first()?.destination.clone(),
            _ => Template::parse(&link.destination).ok()?,
        };
        Some(ActiveLink {
            link_id,
            tenant_id,
            program_id: link.program_id,
            affiliate_id: link.affiliate_id,
            window_seconds: u32::try_from(link.window_seconds).unwrap_or(u32::MAX),
            pass_query: link.pass_query,
            destination,
            terms,
            extras: extras.map(Box::new),
        })
    }

    /// None: unreadable.
    fn terms(&self, link: &Link) -> Option<Option<Arc<Terms>>> {
        if link.override_hosts.len() > MAX_VALUES {
            return None;
        }
        let terms = Terms {
            fallback: match &*link.fallback_url {
                "" => None,
                url => Some(Template::parse(url).ok()?),
            },
            override_hosts: boxed(&link.override_hosts, |host| {
                host.to_ascii_lowercase().into()
            }),
            cookie_domain: CookieDomain::new(&link.cookie_domain),
        };
        if terms == Terms::default() {
            return Some(None);
        }
        if let Some(shared) = self.terms.get(&terms) {
            return Some(Some(shared));
        }
        let shared = Arc::new(terms);
        self.terms.insert(Arc::clone(&shared), Arc::clone(&shared));
        Some(Some(shared))
    }
}

impl ActiveLink {
    /// How many clicks may go to the destination.
    pub(crate) fn cap(&self) -> Option<Cap> {
        self.extras.as_ref()?.cap
    }

    /// Where clicks go that can't go to the destination.
    pub(crate) fn fallback(&self) -> Option<&Template> {
        self.terms.as_ref()?.fallback.as_ref()
    }

    /// Lower-case hosts that `?url=` may lead to; `*.shop.example` for the subdomains of one.
    pub(crate) fn override_hosts(&self) -> &[Box<str>] {
        self.terms.as_ref().map_or(&[], |t| &t.override_hosts)
    }

    /// The domain of the cookies; none: the host's own.
    pub(crate) fn cookie_domain(&self) -> Option<&CookieDomain> {
        self.terms.as_ref()?.cookie_domain.as_ref()
    }
}

/// None: unreadable. Some(None): a plain link.
fn extras(link: &Link) -> Option<Option<Extras>> {
    if link.routes.len() > MAX_ROUTES {
        return None;
    }
    let mut next = 1;
    let own = match &*link.variants {
        [] => None,
        variants => Some(split(variants, &mut next)?),
    };
    let routes: Option<Box<[Route]>> = link.routes.iter().map(|r| route(r, &mut next)).collect();
    let extras = Extras {
        expires_at_s: link.expires_at_s,
        cap: (link.click_cap > 0).then(|| Cap {
            limit: link.click_cap,
            period: link.cap_period(),
        }),
        routes: routes?,
        split: own,
    };
    let plain = extras.expires_at_s == 0
        && extras.cap.is_none()
        && extras.routes.is_empty()
        && extras.split.is_none();
    Some((!plain).then_some(extras))
}

/// `next` is the number of the next variant within the link.
fn split(variants: &[links::Variant], next: &mut u32) -> Option<Split> {
    let first = *next;
    let usable = (1..=MAX_VARIANTS).contains(&variants.len())
        && variants.iter().all(|v| v.weight <= MAX_WEIGHT)
        && variants.iter().any(|v| v.weight > 0);
    if !usable {
        return None;
    }
    let variants: Option<Box<[Variant]>> = variants
        .iter()
        .map(|variant| {
            *next += 1;
            Some(Variant {
                destination: Template::parse(&variant.destination).ok()?,
                weight: variant.weight,
            })
        })
        .collect();
    Some(Split {
        first,
        variants: variants?,
    })
}

fn route(route: &links::Route, next: &mut u32) -> Option<Route> {
    let lists = [
        &route.countries,
        &route.devices,
        &route.systems,
        &route.languages,
    ];
    if lists.iter().any(|list| list.len() > MAX_VALUES) {
        return None;
    }
    Some(Route {
        countries: given(&route.countries, |c| c.as_bytes().try_into().ok()),
        devices: given(&route.devices, Device::from_name),
        systems: given(&route.systems, System::from_name),
        languages: given(&route.languages, |tag| Some(tag.into())),
        schedule: route.schedule.as_ref().map(schedule),
        split: split(&route.variants, next)?,
    })
}

fn schedule(schedule: &links::Schedule) -> Schedule {
    Schedule {
        time_zone: match &*schedule.time_zone {
            "" => Some(Tz::UTC),
            zone => zone.parse().ok(),
        },
        days: schedule.days,
        from_minute: schedule.from_minute,
        to_minute: schedule.to_minute,
        starts_at_s: schedule.starts_at_s,
        ends_at_s: schedule.ends_at_s,
    }
}

/// A condition's values, without those that are not known; none when it isn't given.
fn given<T>(values: &[String], read: impl Fn(&str) -> Option<T>) -> Option<Box<[T]>> {
    (!values.is_empty()).then(|| values.iter().filter_map(|value| read(value)).collect())
}

fn boxed<T>(values: &[String], read: impl Fn(&str) -> T) -> Box<[T]> {
    values.iter().map(|value| read(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESTINATION: &str = "https://shop.example/?c={click_id}";

    fn plain() -> Link {
        Link {
            link_id: 3,
            tenant_id: 7,
            program_id: 4,
            affiliate_id: 5,
            destination: DESTINATION.to_owned(),
            window_seconds: 60,
            ..Link::default()
        }
    }

    fn compile(link: &Link) -> Option<ActiveLink> {
        Compiler::new().compile(&link.encode_to_vec(), TenantId(7))
    }

    fn variant(weight: u32) -> links::Variant {
        links::Variant {
            destination: DESTINATION.to_owned(),
            weight,
        }
    }

    #[test]
    fn a_link_is_used_only_for_its_own_tenant() {
        let link = compile(&plain()).unwrap();
        assert_eq!((link.link_id, link.window_seconds), (LinkId(3), 60));
        let stored = plain().encode_to_vec();
        assert!(Compiler::new().compile(&stored, TenantId(8)).is_none());
    }

    #[test]
    fn an_unreadable_link_is_none() {
        assert!(Compiler::new().compile(b"\xff\xff", TenantId(7)).is_none());
        let unreadable: [fn(&mut Link); 10] = [
            |l| l.link_id = 0,
            |l| l.destination = "javascript:alert(1)".to_owned(),
            |l| l.destination.clear(),
            |l| l.fallback_url = "shop.example".to_owned(),
            |l| l.variants = vec![variant(0), variant(0)],
            |l| l.variants = vec![variant(MAX_WEIGHT + 1)],
            |l| l.variants = vec![variant(1); MAX_VARIANTS + 1],
            |l| l.routes = vec![links::Route::default()],
            |l| {
                l.routes = vec![
                    links::Route {
                        variants: vec![variant(1)],
                        ..links::Route::default()
                    };
                    MAX_ROUTES + 1
                ];
            },
            |l| l.override_hosts = vec!["a.b".to_owned(); MAX_VALUES + 1],
        ];
        for (n, change) in unreadable.iter().enumerate() {
            let mut link = plain();
            change(&mut link);
            assert_eq!(compile(&link), None, "{n}");
        }
    }

    #[test]
    fn only_what_routes_needs_extras() {
        let same = |change: fn(&mut Link)| {
            let mut link = plain();
            change(&mut link);
            compile(&link).unwrap().extras.is_none()
        };
        assert!(same(|_| ()));
        assert!(same(|l| l.pass_query = true));
        assert!(same(|l| l.fallback_url = "https://shop.example".to_owned()));
        assert!(!same(|l| l.expires_at_s = 1));
        assert!(!same(|l| l.click_cap = 1));
        assert!(!same(|l| l.variants = vec![variant(1)]));
    }

    #[test]
    fn a_split_needs_no_destination_beside_it() {
        let link = Link {
            destination: String::new(),
            variants: vec![variant(1), variant(0)],
            ..plain()
        };
        assert!(compile(&link).is_some());
    }

    #[test]
    fn variants_are_numbered_through_the_link() {
        let route = links::Route {
            variants: vec![variant(1), variant(1)],
            ..links::Route::default()
        };
        let link = compile(&Link {
            variants: vec![variant(1); 3],
            routes: vec![route.clone(), route],
            ..plain()
        });
        let extras = link.unwrap().extras.unwrap();
        assert_eq!(extras.split.as_ref().unwrap().first, 1);
        let firsts: Vec<u32> = extras.routes.iter().map(|r| r.split.first).collect();
        assert_eq!(firsts, [4, 6]);
    }

    #[test]
    fn terms_are_held_once() {
        let compiler = Compiler::new();
        let compile = |link_id, fallback: &str| {
            let link = Link {
                link_id,
                fallback_url: fallback.to_owned(),
                override_hosts: vec!["Shop.Example".to_owned()],
                cookie_domain: "shop.example".to_owned(),
                ..plain()
            };
            compiler
                .compile(&link.encode_to_vec(), TenantId(7))
                .unwrap()
        };
        let a = compile(1, "https://shop.example/a");
        let b = compile(2, "https://shop.example/a");
        let c = compile(3, "");
        let shared = |x: &ActiveLink, y: &ActiveLink| {
            Arc::ptr_eq(x.terms.as_ref().unwrap(), y.terms.as_ref().unwrap())
        };
        assert!(shared(&a, &b) && !shared(&a, &c));
        assert_eq!(
            a.cookie_domain(),
            CookieDomain::new("shop.example").as_ref()
        );
        assert_eq!(*a.override_hosts()[0], *"shop.example");
        assert!(a.fallback().is_some() && c.fallback().is_none());
    }

    #[test]
    fn a_plain_link_is_small() {
        assert!(size_of::<ActiveLink>() <= 72, "{}", size_of::<ActiveLink>());
    }
}
