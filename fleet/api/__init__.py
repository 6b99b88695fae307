"""The hub's HTTP contract for operators and applications: a model for every request and answer.

The hub answers with these models, the client returns them, and the OpenAPI document is made of them. What devices
speak stays in `fleet.protocol`; `fleet.api.wire` lets its structs appear inside these models.

| module | what |
|---|---|
| `types` | numbers, text and names within bounds |
| `base` | what every request and every answer has in common, pages of lists |
| `wire` | structs of `fleet.protocol` as fields |
| `durations` | durations in words, for commands and pages |
| `errors` | the document of every refusal |
| `tokens`, `devices`, … | one module for each noun |
| `inference` | the Open Inference Protocol, for the document only: its codec is `fleet.protocol.oip` |
"""
