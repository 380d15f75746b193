//! Subscribes workers to the notifications of new work.

use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::Store;

/// A subscription to work notifications. One connection listens for as long as this value lives.
#[derive(Debug)]
pub struct WorkNotifications {
    pool: sqlx::PgPool,
    listener: Option<PgListener>,
}

impl Store {
    /// Subscribes to work notifications. The LISTEN connection opens on the first `wait`.
    pub fn work_notifications(&self) -> WorkNotifications {
        WorkNotifications {
            pool: self.pool.clone(),
            listener: None,
        }
    }
}

impl WorkNotifications {
    /// Waits for a notification, at most this long. Notifications may be lost, so the caller polls
    /// the queue as well.
    pub async fn wait(&mut self, at_most: Duration) {
        // The caller polls the queue after an error or a timeout too, so neither is returned.
        if let Ok(Err(error)) = tokio::time::timeout(at_most, self.receive_notification()).await {
            tracing::debug!(error = %error, "could not listen for work notifications; polling the queue");
            self.listener = None;
            tokio::time::sleep(at_most).await;
        }
    }

    /// Waits for a notification. The listener buffers those that came earlier, and one poll of the
    /// queue serves all of them, so they are discarded.
    async fn receive_notification(&mut self) -> sqlx::Result<()> {
        let listener = match &mut self.listener {
            Some(listener) => listener,
            none => {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                listener.listen("mw_work").await?;
                none.insert(listener)
            }
        };
        listener.recv().await?;
        while listener.next_buffered().is_some() {}
        Ok(())
    }
}
