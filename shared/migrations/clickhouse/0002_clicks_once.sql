-- A click's name: the segment of a redirector's journal that it stands in, and its place there. What
-- was delivered twice has one name; the processor asks for the names that are stored before it writes
-- (processor/src/segments.rs). Clicks from before this migration have no segment: all zeros.
--
-- outcome is the number of shared/proto/clicks.proto's Outcome, so that a newer redirector's outcome can be
-- stored before this table knows its name. code and host say what an UNRESOLVED click (outcome = 4) asked for.
ALTER TABLE clicks
    ADD COLUMN IF NOT EXISTS segment_id UUID CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS segment_sequence UInt32 CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS utm_source LowCardinality(String),
    ADD COLUMN IF NOT EXISTS utm_medium LowCardinality(String),
    ADD COLUMN IF NOT EXISTS utm_campaign LowCardinality(String),
    ADD COLUMN IF NOT EXISTS utm_term String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS utm_content String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS outcome UInt8 CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS variant UInt32 CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS code String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS host String CODEC(ZSTD(1));

-- The names alone, sorted by segment: the processor's question reads these few bytes a click, and of
-- them only the segments that it asks for.
ALTER TABLE clicks
    ADD PROJECTION IF NOT EXISTS segments (SELECT segment_id, segment_sequence ORDER BY segment_id, segment_sequence);

-- It answered the question for the highest stored offset, which is not asked any more.
ALTER TABLE clicks DROP PROJECTION IF EXISTS positions;

-- Parts that are there already get the projection in the background; until then the question reads
-- their segment_id, which is right as well.
ALTER TABLE clicks MATERIALIZE PROJECTION segments;
