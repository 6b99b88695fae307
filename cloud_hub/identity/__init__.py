"""Tells who calls: devices (certificates and short tokens), applications, operators, mirrors."""
