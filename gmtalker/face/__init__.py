"""The 3D face: model, person, tracking, drawing."""
