"""`fog doctor`: what is read (`facts`, `reading`, `folder`), and what is judged from it, a concept a file, without reading."""
