"""Sending a page to a cluster as a Ray job, and what becomes of it there.

job       what a job is: its state, run folder, exit code
cargo     what travels with it: the page and the user's own code
once      the run that a page has already
ray_jobs  the job server of a cluster [Ray door]
follow    its log as it grows, to its end
"""
