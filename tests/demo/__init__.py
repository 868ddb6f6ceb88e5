"""The demo: pynet's main job on a private Docker Engine, for people to watch.

usage: make demo, or python -m tests.demo

| module | what it owns                                                  |
|--------|---------------------------------------------------------------|
| screen | what is shown: numbered steps, commands with their output     |
| words  | links and rules of a host, as the kernel tells them, in words |
| traces | finding what is left of a lab when it is gone                 |
"""
