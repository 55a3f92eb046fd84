//! What kind of device is this, and which system does it run? From the client hints where a browser
//! sends them, else from the User-Agent.
//!
//! What can't be told apart, and what it is taken for:
//! - Safari on an iPad (iPadOS 13 and later) calls itself a Macintosh and sends no hints: desktop, macOS.
//! - An Android tablet that asks for desktop pages shows `X11; Linux` and hints to match: desktop, Linux.
//! - An app on Android that sends the system's own agent (`Dalvik`) doesn't say its screen's size: mobile.
//! - A television with Android shows what a tablet shows: tablet.
//!
//! woothee knows no tablets, and the ua-parser family's list compiles a thousand regular expressions
//! to name brands that no route asks for; a short table of words does here.

/// A class of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Desktop,
    Mobile,
    Tablet,
}

impl Device {
    /// By the name that routes use.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "desktop" => Self::Desktop,
            "mobile" => Self::Mobile,
            "tablet" => Self::Tablet,
            _ => return None,
        })
    }
}

/// An operating system that routes can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Android,
    Ios,
    Windows,
    Macos,
    Linux,
    Chromeos,
}

impl System {
    /// By the name that routes use.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "android" => Self::Android,
            "ios" => Self::Ios,
            "windows" => Self::Windows,
            "macos" => Self::Macos,
            "linux" => Self::Linux,
            "chromeos" => Self::Chromeos,
            _ => return None,
        })
    }

    /// By `Sec-CH-UA-Platform`, with or without its quotes.
    fn from_hint(platform: &str) -> Option<Self> {
        Some(match platform.trim().trim_matches('"') {
            "Android" => Self::Android,
            "iOS" => Self::Ios,
            "Windows" => Self::Windows,
            "macOS" | "Mac OS X" => Self::Macos,
            "Linux" => Self::Linux,
            "Chrome OS" | "Chromium OS" => Self::Chromeos,
            _ => return None,
        })
    }
}

/// What a click's headers say of the device; none: they don't say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    pub device: Option<Device>,
    pub system: Option<System>,
}

/// Telephones of before Android and iOS, and what else says that it is one.
const OTHER_PHONES: [&str; 14] = [
    "Mobile",
    "Mobi",
    "Phone",
    "MIDP",
    "Opera Mini",
    "MAUI",
    "WAP Browser",
    "Maui Browser",
    "BlackBerry",
    "BB10",
    "Nokia",
    "Symbian",
    "UP.Browser",
    "SonyEricsson",
];

/// Judges the headers `User-Agent` (empty: not sent), `Sec-CH-UA-Mobile` and `Sec-CH-UA-Platform`.
pub fn machine(
    user_agent: &str,
    hint_mobile: Option<&str>,
    hint_platform: Option<&str>,
) -> Machine {
    let by_agent = by_agent(user_agent);
    let system = hint_platform
        .and_then(System::from_hint)
        .or(by_agent.system);
    let device = match (hint_mobile.map(str::trim), system) {
        (Some("?1"), _) => Some(Device::Mobile),
        (Some("?0"), Some(System::Android | System::Ios)) => Some(Device::Tablet),
        (Some("?0"), Some(_)) => Some(Device::Desktop),
        _ => by_agent.device,
    };
    Machine { device, system }
}

fn by_agent(agent: &str) -> Machine {
    let has = |word: &str| agent.contains(word);
    let machine = |device, system| Machine {
        device: Some(device),
        system,
    };
    let mobile_or = |other| {
        if has("Mobile") { Device::Mobile } else { other }
    };
    if agent.trim().is_empty() {
        return Machine {
            device: None,
            system: None,
        };
    }
    // It calls itself Android and iPhone as well.
    if has("Windows Phone") || has("Windows Mobile") || has("Windows CE") || has("IEMobile") {
        return machine(Device::Mobile, None);
    }
    // Amazon's tablets, which call themselves Linux or a Macintosh.
    if has("Silk/") {
        return machine(mobile_or(Device::Tablet), Some(System::Android));
    }
    if has("Android") {
        let browser = has("AppleWebKit") || has("Gecko");
        let device = if has("Tablet") || browser && !has("Opera Mini") {
            mobile_or(Device::Tablet)
        } else {
            Device::Mobile
        };
        return machine(device, Some(System::Android));
    }
    if has("iPad") {
        return machine(Device::Tablet, Some(System::Ios));
    }
    if has("iPhone") || has("iPod") {
        return machine(Device::Mobile, Some(System::Ios));
    }
    if has("CrOS") {
        return machine(Device::Desktop, Some(System::Chromeos));
    }
    if has("Windows") {
        return machine(Device::Desktop, Some(System::Windows));
    }
    if has("PlayBook") || has("Kindle/") || has("Tablet;") {
        return machine(Device::Tablet, None);
    }
    if has("Macintosh") || has("Mac OS X") || has("Mac_PowerPC") {
        return machine(Device::Desktop, Some(System::Macos));
    }
    if OTHER_PHONES.iter().any(|word| has(word)) {
        return machine(Device::Mobile, None);
    }
    let system = (has("Linux") || has("Ubuntu")).then_some(System::Linux);
    machine(Device::Desktop, system)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(agent: &str) -> (Option<Device>, Option<System>) {
        let machine = machine(agent, None, None);
        (machine.device, machine.system)
    }

    #[test]
    fn agents_of_today_are_told_apart() {
        use Device::{Desktop, Mobile, Tablet};
        use System::{Android, Chromeos, Ios, Linux, Macos, Windows};
        let cases = [
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Mobile Safari/537.36",
                Mobile,
                Some(Android),
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36",
                Tablet,
                Some(Android),
            ),
            (
                "Mozilla/5.0 (Android 14; Mobile; rv:139.0) Gecko/139.0 Firefox/139.0",
                Mobile,
                Some(Android),
            ),
            (
                "Mozilla/5.0 (Android 14; Tablet; rv:139.0) Gecko/139.0 Firefox/139.0",
                Tablet,
                Some(Android),
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X906C Build/TP1A.220624.014; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/137.0.0.0 Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/420.0.0.32.71;]",
                Mobile,
                Some(Android),
            ),
            (
                "Mozilla/5.0 (Linux; Android 9; KFTRWI) AppleWebKit/537.36 (KHTML, like Gecko) Silk/130.4.1 like Chrome/130.0.0.0 Safari/537.36",
                Tablet,
                Some(Android),
            ),
            (
                "Dalvik/2.1.0 (Linux; U; Android 13; Pixel 6 Build/TQ3A.230901.001)",
                Mobile,
                Some(Android),
            ),
            (
                "Opera/9.80 (Android; Opera Mini/7.5.33361/31.1543; U; en) Presto/2.8.119 Version/11.1010",
                Mobile,
                Some(Android),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
                Mobile,
                Some(Ios),
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 12_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.2 Mobile/15E148 Safari/604.1",
                Tablet,
                Some(Ios),
            ),
            // An iPad of today, or a Mac: see above.
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
                Desktop,
                Some(Macos),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36 Edg/137.0.0.0",
                Desktop,
                Some(Windows),
            ),
            (
                "Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; Trident/5.0; Tablet PC 2.0)",
                Desktop,
                Some(Windows),
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0",
                Desktop,
                Some(Linux),
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36",
                Desktop,
                Some(Chromeos),
            ),
            (
                "Mozilla/5.0 (X11; FreeBSD amd64; rv:130.0) Gecko/20100101 Firefox/130.0",
                Desktop,
                None,
            ),
            (
                "Mozilla/5.0 (Windows Phone 10.0; Android 6.0.1; Microsoft; Lumia 950) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/52.0.2743.116 Mobile Safari/537.36 Edge/15.15063",
                Mobile,
                None,
            ),
            (
                "Mozilla/5.0 (Mobile; Nokia_2720_Flip; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5.2",
                Mobile,
                None,
            ),
            (
                "Mozilla/5.0 (Phone; OpenHarmony 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.0.0 Safari/537.36 ArkWeb/4.1.6.1 Mobile",
                Mobile,
                None,
            ),
            ("Lynx/2.9.0 libwww-FM/2.14 SSL-MM/1.4.1", Desktop, None),
        ];
        for (agent, device, system) in cases {
            assert_eq!(seen(agent), (Some(device), system), "{agent}");
        }
        assert_eq!(seen(" "), (None, None));
    }

    #[test]
    fn hints_outweigh_the_agent() {
        use Device::{Desktop, Mobile, Tablet};
        let linux = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36";
        let with = |mobile, platform| {
            let machine = machine(linux, mobile, platform);
            (machine.device.unwrap(), machine.system.unwrap())
        };
        assert_eq!(
            with(Some("?1"), Some("\"Android\"")),
            (Mobile, System::Android)
        );
        assert_eq!(
            with(Some("?0"), Some("\"Android\"")),
            (Tablet, System::Android)
        );
        assert_eq!(
            with(Some("?0"), Some("\"Chrome OS\"")),
            (Desktop, System::Chromeos)
        );
        assert_eq!(with(None, Some("\"macOS\"")), (Desktop, System::Macos));
        for (mobile, platform) in [
            (None, None),
            (Some("yes"), Some("\"Unknown\"")),
            (Some(""), Some("\"")),
        ] {
            assert_eq!(with(mobile, platform), (Desktop, System::Linux));
        }
    }

    #[test]
    fn the_agents_of_a_real_log_are_told_apart() {
        let labels = include_str!("../../load-tests/data/agents.tsv");
        let people = || {
            labels
                .lines()
                .filter_map(|line| line.strip_prefix("person\t"))
                .map(|line| line.split('\t').next().unwrap())
        };
        let count = |device| people().filter(|agent| seen(agent).0 == device).count();
        // Each was read once, and sorted as a person would. A new word in the table shows here.
        assert_eq!(count(Some(Device::Desktop)), 325);
        assert_eq!(count(Some(Device::Mobile)), 100);
        assert_eq!(count(Some(Device::Tablet)), 17);
        assert_eq!(people().count(), 325 + 100 + 17);
    }
}
