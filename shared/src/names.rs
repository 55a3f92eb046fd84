//! Every metric's name, in one place, with what it counts.

/// Redirector: requests by `kind` (redirect, postback, webhook, pixel, events, snippet, other) and `status`.
pub const HTTP_REQUESTS: &str = "tributary_http_requests_total";
/// Redirector: clicks that were written to the journal.
pub const CLICKS_ACCEPTED: &str = "tributary_clicks_accepted_total";
/// Redirector: clicks that Kafka acknowledged.
pub const CLICKS_DELIVERED: &str = "tributary_clicks_delivered_total";
/// Redirector: records that were accepted but will never reach Kafka, by `stream` (clicks,
/// conversions, postbacks) and `reason` (full, damaged, shutdown). Any is an alarm.
pub const JOURNAL_LOST: &str = "tributary_journal_lost_total";
/// Redirector: segments opened in plain memory because there was no disk to have. Any is a warning:
/// their records would not survive the process.
pub const JOURNAL_MEMORY_SEGMENTS: &str = "tributary_journal_memory_segments_total";
/// Redirector: bytes of disk that the journal takes.
pub const JOURNAL_DISK_BYTES: &str = "tributary_journal_disk_bytes";
/// Redirector: bytes in the journal that Kafka has not acknowledged.
pub const JOURNAL_WAITING_BYTES: &str = "tributary_journal_waiting_bytes";
/// Redirector: conversions reported, by `source` (postback, pixel, event, webhook) and `outcome` (accepted, or
/// why not, as a code).
pub const CONVERSIONS_REPORTED: &str = "tributary_conversions_reported_total";
/// Redirector: reports of orders that are missing in the tenant's log, by `reason` (rate: more than are logged
/// a second were refused; journal: no room for it in the journal). The conversions are safe all the same.
pub const POSTBACKS_UNLOGGED: &str = "tributary_postbacks_unlogged_total";
/// Redirector: click cookies that carried no token of ours and were taken for none.
pub const CLICK_COOKIES_IGNORED: &str = "tributary_click_cookies_ignored_total";
/// Redirector: look-ups that memory alone could not answer, by `outcome` (miss: Redis was asked; stale:
/// the old answer was given; unavailable: none). Redis was asked once for all who waited.
pub const LINK_LOOKUPS: &str = "tributary_link_lookups_total";
/// Redirector: keys that Redis said have changed.
pub const INDEX_CHANGES: &str = "tributary_edge_index_changes_total";
/// Redirector: 1 while Redis tells of changes; 0: links are read again each second instead.
pub const INDEX_FOLLOWED: &str = "tributary_edge_index_followed";
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
/// Processor: rows that were delivered again and skipped, by `table`.
pub const FACTS_SKIPPED: &str = "tributary_facts_skipped_total";
/// Processor: messages that wait in the partitions it reads, by `topic`; looked at every five seconds.
pub const LAG_MESSAGES: &str = "tributary_lag_messages";
/// Processor: how long the message that was read last had waited, in seconds, by `topic`.
pub const LAG_SECONDS: &str = "tributary_lag_seconds";
/// Processor: messages, or parts of one, sent to a dead-letter topic, by `topic`.
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
