"""The gateway: HTTP and gRPC for programs that have no NATS client, or no right to one. A client of Parley like any other.

http_server         listens, with a limit on all that a stranger can send or hold open
application         which path leads where; who may come in
├── deliberations   ask, look, cancel, list, ask again
├── event_stream    what happens in a deliberation, as server-sent events
└── chat            OpenAI's chat API: a panel looks like a model
grpc_server         listens for gRPC, with limits of the same kind
└── grpc_methods    the same over gRPC, with the messages of grpc_messages
question            reads and names a question, whichever way it came
state               who sends a request; what both share
caller              what a caller may ask, and how much
tenants             whose token it is, whose deliberation, and how much each may ask
problems, failures  errors: which field is wrong, when to come again, what is only for the log
"""
