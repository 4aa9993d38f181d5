"""The pure part: values in, values out. No IO, no clock, no asyncio, no logging."""
