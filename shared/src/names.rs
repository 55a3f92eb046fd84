//! Every metric's name, in one place, with what it counts.

/// Redirector: requests by `kind` (redirect, postback, other) and `status`.
pub const HTTP_REQUESTS: &str = "tributary_http_requests_total";
/// Redirector: clicks answered with a 302 and handed to Kafka's producer.
pub const CLICKS_ACCEPTED: &str = "tributary_clicks_accepted_total";
/// Redirector: clicks that Kafka acknowledged.
pub const CLICKS_DELIVERED: &str = "tributary_clicks_delivered_total";
/// Redirector: clicks that were redirected but will never reach Kafka, by `reason`. Any is an alarm.
pub const CLICKS_LOST: &str = "tributary_clicks_lost_total";
/// Redirector: look-ups of a code by `outcome` (hit, miss, stale, unavailable).
pub const LINK_LOOKUPS: &str = "tributary_link_lookups_total";
/// Redirector: postbacks by `outcome` (accepted, or the error's code).
pub const POSTBACKS: &str = "tributary_postbacks_total";
/// Redirector: open connections.
pub const CONNECTIONS: &str = "tributary_connections";
/// Redirector: connections closed before their first request, by `reason` (address_limit, or a PROXY
/// header that is proxy_untrusted or proxy_header).
pub const CONNECTIONS_REFUSED: &str = "tributary_connections_refused_total";
/// Redirector: TLS handshakes by `outcome` (completed, failed, timeout).
pub const TLS_HANDSHAKES: &str = "tributary_tls_handshakes_total";
/// Redirector: when the certificate in use for `host` expires, in seconds since 1970; 0 once there is
/// none. Alarm two weeks before.
pub const TLS_CERTIFICATE_EXPIRES: &str = "tributary_tls_certificate_expires_seconds";
/// Redirector: certificates in the folder that can't be used. Any is an alarm: the log says why.
pub const TLS_CERTIFICATES_UNUSABLE: &str = "tributary_tls_certificates_unusable";
/// Processor: rows written to ClickHouse by `table`.
pub const FACTS_WRITTEN: &str = "tributary_facts_written_total";
/// Processor: messages that were stored before and skipped, by `table`.
pub const FACTS_SKIPPED: &str = "tributary_facts_skipped_total";
/// Processor: messages sent to a dead-letter topic, by `topic`.
pub const DEAD_LETTERS: &str = "tributary_dead_letters_total";
/// Processor: conversions by `outcome` (an attribution, or duplicate).
pub const CONVERSIONS: &str = "tributary_conversions_total";
/// Processor: an engine did not do what was asked and is asked again, by `engine`.
pub const RETRIES: &str = "tributary_retries_total";
/// Processor: ledger events that Kafka acknowledged.
pub const LEDGER_EVENTS_PUBLISHED: &str = "tributary_ledger_events_published_total";
/// Admin API: changes written to Redis by the relay.
pub const EDGE_CHANGES_PUBLISHED: &str = "tributary_edge_changes_published_total";
/// Admin API: complete rebuilds of the edge index.
pub const EDGE_SYNCS: &str = "tributary_edge_syncs_total";
/// Admin API: requests by `route`, `method` and `status` class.
pub const API_REQUESTS: &str = "tributary_api_requests_total";
/// Admin API: how long requests took, in seconds, by `route`.
pub const API_SECONDS: &str = "tributary_api_request_seconds";
