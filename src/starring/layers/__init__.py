"""The only room that touches a frozen network: mechanisms that go on and come off exactly."""
