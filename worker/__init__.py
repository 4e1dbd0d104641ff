"""The job system of snapcycle: what a job is, where it is kept, and how it runs."""
