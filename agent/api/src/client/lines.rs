//! An answer that goes on: one JSON value per line.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ClientError;
use super::exchange::Connection;
use crate::errors::ApiError;

/// Agents say something at least every few seconds; after this long the stream is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest line: progress of a service with 10,000 seats.
const LINE_BYTES_MAX: usize = 32 << 20;

/// Values as they come. Dropping it ends the stream at the other side.
pub struct LineStream<T> {
    connection: Connection,
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of `buffer` that hold no line end.
    searched: usize,
    values: PhantomData<fn() -> T>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line<T> {
    Failed { error: ApiError },
    Value(T),
}

impl<T: DeserializeOwned> LineStream<T> {
    pub(super) fn new(connection: Connection, body: Incoming) -> Self {
        Self {
            connection,
            body,
            buffer: BytesMut::new(),
            searched: 0,
            values: PhantomData,
        }
    }

    /// The next value; `None` when the agent ended the stream. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the connection is lost, falls silent, or the agent reports an error.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.is_empty() {
                    continue;
                }
                return self.parse(&line).map(Some);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(self.lost("a line without an end".to_owned()));
            }
            match tokio::time::timeout(SILENCE_MAX, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Ok(Some(Err(err))) => return Err(self.lost(err.to_string())),
                Ok(None) => return Ok(None),
                Err(_) => {
                    let silence = format!("nothing was heard for {} s", SILENCE_MAX.as_secs());
                    return Err(self.lost(silence));
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let fresh = &self.buffer[self.searched..];
        match fresh.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let mut line = self.buffer.split_to(self.searched + end + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                Some(line)
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<T, ClientError> {
        match serde_json::from_slice(line) {
            Ok(Line::Value(value)) => Ok(value),
            Ok(Line::Failed { error }) => Err(ClientError::Api(error)),
            Err(err) => Err(ClientError::Answer {
                host: self.connection.host().clone(),
                cause: err.to_string(),
            }),
        }
    }

    fn lost(&self, cause: String) -> ClientError {
        ClientError::Lost {
            host: self.connection.host().clone(),
            cause,
        }
    }
}
