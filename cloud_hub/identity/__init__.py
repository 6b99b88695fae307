"""Who may call: devices (certificates and short tokens), applications, operators, mirrors."""
