//! A disk in memory that fails as disks do: it runs full, tears writes, forgets what was not synced.
