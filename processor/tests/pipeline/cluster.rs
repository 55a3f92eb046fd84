//! The tables for a cluster are those of one server.

use crate::support::World;

const CLUSTER: &str = include_str!("../../../shared/migrations/clickhouse/cluster/facts.sql");
const TABLES: [&str; 4] = ["clicks", "conversions", "commissions", "postbacks"];

/// What a table is made of: columns, keys and retention, rollups.
async fn shape(world: &World, table: &str) -> Vec<String> {
    let mut shape = Vec::new();
    for question in [
        "SELECT concat(name, ' ', type, ' ', default_kind, ' ', default_expression, ' ', compression_codec) FROM system.columns
         WHERE database = currentDatabase() AND table = ? ORDER BY position",
        "SELECT concat(replaceOne(engine, 'Replicated', ''), ' ', partition_key, ' ', sorting_key, ' ',
                       extract(create_table_query, 'TTL (.*) SETTINGS'), ' ',
                       extract(create_table_query, 'default_compression_codec = ..ZSTD.1...')) FROM system.tables
         WHERE database = currentDatabase() AND name = ?",
        "SELECT concat(name, ' ', query) FROM system.projections
         WHERE database = currentDatabase() AND table = ? ORDER BY name",
    ] {
        let rows = world.facts.query(question).bind(table).fetch_all::<String>();
        shape.extend(rows.await.unwrap());
    }
    shape
}

/// The statement for one server: what only a cluster knows is left out.
fn alone(statement: &str, table: &str) -> String {
    let path = format!("'/clickhouse/tables/{{shard}}/{{database}}/{table}', '{{replica}}'");
    statement
        .replace(" ON CLUSTER '{cluster}'", "")
        .replace(&path, "")
        .replace("replicated_deduplication_window = 0, ", "")
        .replace("Replicated", "")
        .replace("(, version)", "(version)")
}

#[tokio::test]
async fn a_clusters_tables_are_those_of_one_server() {
    let world = World::create().await;
    for table in TABLES {
        let name = format!("{table}_local ON CLUSTER");
        let statement = CLUSTER.split(";\n").find(|s| s.contains(&name)).unwrap();
        let statement = alone(statement, table).replace('?', "??");
        world.facts.query(&statement).execute().await.unwrap();
        let ours = shape(&world, table).await;
        assert!(ours.len() > 10, "{ours:?}");
        assert_eq!(
            shape(&world, &format!("{table}_local")).await,
            ours,
            "{table}"
        );
        assert!(CLUSTER.contains(&format!(
            "EXISTS {table} ON CLUSTER '{{cluster}}' AS {table}_local\n"
        )));
    }
    let version: u32 = world
        .facts
        .query("SELECT max(version) FROM schema_versions")
        .fetch_one()
        .await
        .unwrap();
    let said = format!("INSERT INTO schema_versions (version) VALUES ({version})");
    assert!(CLUSTER.contains(&said), "{said}");
}
