"""The demo archive's part of XNAT's data model, from which the library xnat generates its classes."""

from __future__ import annotations

_XNAT = """<?xml version="1.0" encoding="UTF-8"?>
<xs:schema xmlns:xnat="http://nrg.wustl.edu/xnat" xmlns:xs="http://www.w3.org/2001/XMLSchema" \
targetNamespace="http://nrg.wustl.edu/xnat" elementFormDefault="qualified">
  <xs:element name="Project" type="xnat:projectData"/>
  <xs:complexType name="projectData">
    <xs:sequence>
      <xs:element name="name" type="xs:string" minOccurs="0"/>
      <xs:element name="description" type="xs:string" minOccurs="0"/>
    </xs:sequence>
    <xs:attribute name="ID" type="xs:string"/>
    <xs:attribute name="secondary_ID" type="xs:string"/>
  </xs:complexType>
</xs:schema>
"""
_XDAT = """<?xml version="1.0" encoding="UTF-8"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="http://nrg.wustl.edu/security"/>
"""
SCHEMAS = {"xdat": _XDAT, "xnat": _XNAT}
