"""A second PropertyPulse beside the first, as it is: what the procedures meet where nobody has prepared the API."""
