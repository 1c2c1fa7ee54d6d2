from datetime import datetime
def return_path(d,domain): return f"b+{d}@{domain}"
def read(body, domain, now): return []
