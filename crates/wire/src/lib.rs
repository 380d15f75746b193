//! Request and response bodies and problem codes, shared by the api and the cli.
