"""The protocols of ASAPO: TCP structs, HTTP routes and JSON documents. Pure."""
