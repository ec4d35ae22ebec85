"""What sections are made of: pictures, tables, numbers as they are written, the style of figures."""
