"""The agents that ship: data, a folder each, read by spec.agents. A folder of one's own has the same form."""
