"""What a person or a program asks pynet: commands that put a question to the daemon's admin socket.

| module | what |
|---|---|
| `questions` | status, ls, inspect, ports, reconcile |
| `client` | HTTP over a Unix socket: the daemon's, and the engine's for names |
| `tables` | answers for people |
| `options` | what commands have in common |
"""
