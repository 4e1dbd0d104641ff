"""The science of snapcycle: schedules, training, snapshots, ensembles. No HTTP, no queue, no environment variables."""
