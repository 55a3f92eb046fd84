//! Apache Kafka: one KRaft node that is broker and controller.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::run_helper;
use crate::data_dir::DataDir;
use crate::ports::Port;
use crate::run_file::{Entry, Section};
use crate::supervisor::Program;
use crate::{Error, artifacts};

/// Quiet, but for what a person looks for: starts, stops, recovery.
const LOG4J: &str = "\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.recovery.name = org.apache.kafka.storage.internals.log.LogLoader
logger.recovery.level = info
";

#[derive(Debug)]
pub(crate) struct Kafka {
    java: PathBuf,
    jars: PathBuf,
    folder: PathBuf,
    port: Port,
    controller_port: Port,
}

impl Kafka {
    pub(crate) fn new(data: &DataDir, port: Port) -> Result<Self, Error> {
        Ok(Self {
            java: artifacts::on_path("java")?,
            jars: artifacts::kafka_jars()?,
            folder: data.folder("kafka")?,
            port,
            controller_port: Port::free()?,
        })
    }

    pub(super) fn entry_for(brokers: String) -> Entry {
        Entry::new(Section::Engines, "kafka", [("brokers", brokers)])
    }

    fn java(&self, main_class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command
            // Room for the tests' many topics; Kafka keeps messages in the page cache, not here.
            .args(["-Xms128m", "-Xmx512m"])
            .args(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
            // Better restarted than half alive.
            .arg("-XX:+ExitOnOutOfMemoryError")
            .arg("-Djava.awt.headless=true")
            .arg(format!(
                "-Djava.io.tmpdir={}",
                self.folder.join("tmp").display()
            ))
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.folder.join("log4j2.properties").display()
            ))
            .arg("-classpath")
            .arg(self.jars.join("*"))
            .arg(main_class)
            .current_dir(&self.folder);
        command
    }

    fn properties(&self) -> String {
        let (port, controller_port) = (self.port.number(), self.controller_port.number());
        let log_folder = self.folder.join("log");
        format!(
            "\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={log_folder}
# Topics are made by the admin API's migrations; a typing error must not make one.
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
min.insync.replicas=1
# A lone consumer need not wait for others.
group.initial.rebalance.delay.ms=0
# After a kill the broker may register again only when its former session has run out.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# The default, 128 MiB of heap, is for a machine of its own.
log.cleaner.dedupe.buffer.size=16777216
",
            log_folder = log_folder.display()
        )
    }

    /// The cluster's id, which the format tool writes last: without it the storage is not formatted.
    fn cluster_id(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join("log/meta.properties")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("cluster.id="))
            .map(str::to_owned)
    }

    async fn format(&self) -> Result<(), Error> {
        // Base64 of 16 bytes, as Kafka's own ids; "A" leaves no odd bits at the end.
        let cluster_id: String = (0..21)
            .map(|_| char::from(rand::random_range(b'a'..=b'z')))
            .chain(['A'])
            .collect();
        let log = self.folder.join("log");
        match std::fs::remove_dir_all(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", log.display()))(error));
            }
            _ => {}
        }
        let mut command = self.java("kafka.tools.StorageTool");
        command
            .args(["format", "--standalone", "--config"])
            .arg(self.folder.join("server.properties"))
            .args(["--cluster-id", &cluster_id]);
        run_helper("kafka.tools.StorageTool", command).await
    }
}

impl Program for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn entry(&self) -> Entry {
        Self::entry_for(format!("127.0.0.1:{}", self.port.number()))
    }

    fn ports(&mut self) -> Vec<&mut Port> {
        vec![&mut self.port, &mut self.controller_port]
    }

    async fn prepare(&self) -> Result<(), Error> {
        // Native libraries are unpacked here; a killed Kafka leaves them.
        let temporary = self.folder.join("tmp");
        let _ = std::fs::remove_dir_all(&temporary);
        std::fs::create_dir_all(&temporary)
            .and_then(|()| std::fs::write(self.folder.join("log4j2.properties"), LOG4J))
            .and_then(|()| std::fs::write(self.folder.join("server.properties"), self.properties()))
            .map_err(Error::io(format!(
                "write Kafka's settings in {}",
                self.folder.display()
            )))?;
        if self.cluster_id().is_none() {
            self.format().await?;
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.java("kafka.Kafka");
        command.arg(self.folder.join("server.properties"));
        command
    }

    /// Healthy when this cluster's broker is in its own list: then it takes messages.
    async fn probe(&self, _pid: u32) -> Result<(), String> {
        let expected = self.cluster_id();
        let metadata = Metadata::ask(self.port.number())
            .await
            .map_err(|error| error.to_string())?;
        if metadata.brokers == 0 {
            Err(String::from("the broker is not registered yet"))
        } else if metadata.cluster_id != expected {
            Err(String::from("another Kafka answers on its port"))
        } else {
            Ok(())
        }
    }

    fn start_limit(&self) -> Duration {
        // After a kill Kafka reads its last log segments again.
        Duration::from_secs(120)
    }

    fn stop_limit(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// What the probe reads of Kafka's Metadata answer (API key 3, version 4, its oldest in Kafka 4).
#[derive(Debug)]
struct Metadata {
    brokers: i32,
    cluster_id: Option<String>,
}

impl Metadata {
    async fn ask(port: u16) -> std::io::Result<Self> {
        let mut request = Vec::new();
        request.extend_from_slice(&3_i16.to_be_bytes()); // Metadata
        request.extend_from_slice(&4_i16.to_be_bytes()); // version
        request.extend_from_slice(&1_i32.to_be_bytes()); // correlation id
        request.extend_from_slice(&(-1_i16).to_be_bytes()); // no client id
        request.extend_from_slice(&0_i32.to_be_bytes()); // about no topic
        request.push(0); // create none
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let length = u32::try_from(request.len()).unwrap_or_default();
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&request).await?;

        let _length = stream.read_i32().await?;
        let _correlation_id = stream.read_i32().await?;
        let _throttle_ms = stream.read_i32().await?;
        let brokers = stream.read_i32().await?;
        for _ in 0..brokers {
            let _node_id = stream.read_i32().await?;
            let _host = read_string(&mut stream).await?;
            let _port = stream.read_i32().await?;
            let _rack = read_string(&mut stream).await?;
        }
        let cluster_id = read_string(&mut stream).await?;
        Ok(Self {
            brokers,
            cluster_id,
        })
    }
}

/// Kafka's nullable string: its length in two bytes (-1: null), then UTF-8.
async fn read_string(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let Ok(length) = usize::try_from(stream.read_i16().await?) else {
        return Ok(None);
    };
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
