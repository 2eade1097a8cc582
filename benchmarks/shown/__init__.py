"""What people get to see: the demo, pictures, the tutorial, the website and the viewer."""
