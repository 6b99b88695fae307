"""Reports to the agent the requests that an application answered in its own process with `edge_agent.local`."""
