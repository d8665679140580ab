"""The gateway: HTTP for programs that have no NATS client, or no right to one. A client of Parley like any other.

http_server         listens, with a limit on all that a stranger can send or hold open
application         which path leads where; who may come in
├── deliberations   ask, look, cancel, list, ask again
├── event_stream    what happens in a deliberation, as server-sent events
└── chat            OpenAI's chat API: a panel looks like a model
tenants             whose token it is, whose deliberation, and how much each may ask
problems            errors, as RFC 9457 has them
"""
