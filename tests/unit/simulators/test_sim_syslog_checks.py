"""The strict audit record repository: a sound message passes, each thing that is wrong is said."""

from __future__ import annotations

import pytest

from drimbox.simulators.syslog_checks import check

DICOM = 'codeSystemName="DCM" originalText="x"'
HEADER = "<85>1 2026-10-01T12:00:00.000Z node drimbox - DICOM+RFC3881 - \ufeff"
SOUND = (
    HEADER
    + f"""<AuditMessage><EventIdentification EventActionCode="C" EventDateTime="2026-10-01T12:00:00Z"
 EventOutcomeIndicator="0"><EventID csd-code="110104" {DICOM}/></EventIdentification>
<ActiveParticipant UserID="CT1" UserIsRequestor="true" NetworkAccessPointID="10.0.0.7"
 NetworkAccessPointTypeCode="2"><RoleIDCode csd-code="110153" {DICOM}/></ActiveParticipant>
<ActiveParticipant UserID="BOX" UserIsRequestor="false"><RoleIDCode csd-code="110152" {DICOM}/></ActiveParticipant>
<AuditSourceIdentification AuditSourceID="BOX"><AuditSourceTypeCode csd-code="4"/></AuditSourceIdentification>
<ParticipantObjectIdentification ParticipantObjectID="INS" ParticipantObjectTypeCode="1"
 ParticipantObjectTypeCodeRole="1"><ParticipantObjectIDTypeCode csd-code="2" codeSystemName="RFC-3881"
 originalText="Patient Number"/><ParticipantObjectName/></ParticipantObjectIdentification>
<ParticipantObjectIdentification ParticipantObjectID="1.2.3" ParticipantObjectTypeCode="2"
 ParticipantObjectTypeCodeRole="3"><ParticipantObjectIDTypeCode csd-code="110180" {DICOM}/><ParticipantObjectName/>
<ParticipantObjectDetail type="Trace" value="NA=="/><ParticipantObjectDescription><SOPClass NumberOfInstances="2">
<Instance UID="1.2.4"/></SOPClass></ParticipantObjectDescription></ParticipantObjectIdentification></AuditMessage>"""
)
ALERT = (
    HEADER
    + f"""<AuditMessage><EventIdentification EventActionCode="E" EventDateTime="2026-10-01T12:00:00Z"
 EventOutcomeIndicator="4"><EventID csd-code="110113" {DICOM}/><EventTypeCode csd-code="110126" {DICOM}/>
</EventIdentification><ActiveParticipant UserID="BOX" UserIsRequestor="true"/>
<AuditSourceIdentification AuditSourceID="BOX"/>
<ParticipantObjectIdentification ParticipantObjectID="10.0.0.7"><ParticipantObjectIDTypeCode csd-code="110182"
 {DICOM}/><ParticipantObjectName/><ParticipantObjectDetail type="Alert Description" value="NA=="/>
</ParticipantObjectIdentification></AuditMessage>"""
)


def faults(text: str) -> tuple[str, ...]:
    return check(text.encode("utf-8")).faults


@pytest.mark.parametrize("sound", [SOUND, ALERT])
def test_a_sound_message_has_no_fault(sound: str) -> None:
    assert faults(sound) == ()


def test_a_sound_message_is_understood() -> None:
    checked = check(SOUND.encode())
    assert (checked.message_id, checked.event, checked.action, checked.outcome) == (
        "DICOM+RFC3881", "110104", "C", "0",
    )  # fmt: skip
    assert [who["UserID"] for who in checked.participants] == ["CT1", "BOX"]
    assert [what["ParticipantObjectID"] for what in checked.objects] == ["INS", "1.2.3"]
    assert (checked.details, checked.instances) == ({"Trace": "4"}, 2)


BROKEN = [
    ("<85>", "<86>", "PRI is not"),
    ("<85>1", "<85>2", "not a message of RFC 5424"),
    ("12:00:00.000Z node", "12:00:00.0000000Z node", "TIMESTAMP"),
    ("DICOM+RFC3881", "AUDIT", "MSGID"),
    (" - \ufeff", " [x@1] \ufeff", "STRUCTURED-DATA"),
    ("\ufeff", "", "BOM"),
    ("</AuditMessage>", "", "not XML"),
    ("<AuditMessage>", "<!DOCTYPE AuditMessage><AuditMessage>", "DOCTYPE"),
    ("AuditMessage>", "Audit>", "root"),
    ('EventActionCode="C" ', 'EventActionCode="X" ', "EventIdentification@EventActionCode"),
    ('EventDateTime="2026-10-01T12:00:00Z"', "", "EventDateTime is missing"),
    ('EventDateTime="2026-10-01T12:00:00Z"', 'EventDateTime="2026-10-01T12:00:00"', "@EventDateTime has no value"),
    ('EventDateTime="2026-10-01T12:00:00Z"', 'EventDateTime="2026-13-01T12:00:00Z"', "no instant"),
    ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"', "EventOutcomeIndicator"),
    ('csd-code="110104"', 'csd-code="110199"', "none that is known"),
    ('csd-code="110104" ', "", "EventID@csd-code is missing"),
    ('UserID="CT1" ', "", "UserID is missing"),
    ('UserIsRequestor="false"', 'UserIsRequestor="true"', "more than one requestor"),
    ('UserIsRequestor="false"', 'UserIsRequestor="FALSE"', "UserIsRequestor has no value"),
    ('csd-code="110153"', 'csd-code="110152"', "110153 takes part 0 times"),
    ('AuditSourceID="BOX"', "", "AuditSourceID is missing"),
    ('ParticipantObjectID="INS" ', "", "ParticipantObjectID is missing"),
    ('csd-code="2" ', 'csd-code="3" ', "no patient"),
    ('csd-code="110180"', 'csd-code="110182"', "no study"),
    ("<ParticipantObjectName/>", "", "children of ParticipantObjectIdentification"),
    ('value="NA=="', 'value="4"', "not base64"),
    ('NumberOfInstances="2"', 'NumberOfInstances="few"', "NumberOfInstances has no value"),
    ('UID="1.2.4"', 'UID="1.2.04"', "Instance@UID has no value"),
    ("<Instance ", "<Instances ", "Instances is not in the schema"),
    ('UserID="CT1"', 'UserID="CT1" Secret="1"', "ActiveParticipant@Secret is not in the schema"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), BROKEN)
def test_each_fault_is_said(old: str, new: str, said: str) -> None:
    assert old in SOUND
    found = faults(SOUND.replace(old, new))
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('EventActionCode="E"', 'EventActionCode="C"', "EventActionCode is not one of 110113"),
        ('csd-code="110126"', 'csd-code="110104"', "EventTypeCode is not one of 110113"),
        ("Alert Description", "Alert", "without its description"),
    ],
)
def test_each_fault_of_an_alert_is_said(old: str, new: str, said: str) -> None:
    assert any(said in fault for fault in faults(ALERT.replace(old, new)))


def test_a_message_that_is_too_long_is_said() -> None:
    assert any("32768" in fault for fault in faults(SOUND + " " * 33_000))


def test_a_medium_needs_its_type() -> None:
    medium = SOUND.replace('csd-code="110104"', 'csd-code="110107"').replace(
        'csd-code="110153"', 'csd-code="110155"'
    )
    assert faults(medium) == ("a medium without its type",)
